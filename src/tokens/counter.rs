//! Exact counts: added tokens, NFC, words, BPE.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::bpe::Merges;
use super::characters::Characters;
use super::nfc::nfc;
use super::pretokenizer::Splitter;
use super::tokenizer_json::{self, Definition};
use super::word_cache::WordCache;
use crate::error::Error;

/// Most caches that are kept between calls: 4 MB each when full.
const CACHES: usize = 6;
/// Most texts that a thread takes at a time.
const BATCH: usize = 32;
/// Where texts are few, each thread takes some this many times, because one may be far longer than the others.
const TIMES: usize = 8;
/// Most threads of a call.
const MOST_THREADS: usize = 256;
/// Bytes that justify another thread: about a millisecond of work.
const BYTES_PER_THREAD: usize = 200_000;
/// Bytes between two calls of `check`.
const CHECK_BYTES: usize = 4 << 20;

/// Counts the tokens of texts as one tokenizer does.
///
/// The tables never change. Each thread of each call takes its own word cache from a small pool and puts it back, so
/// nothing is shared while counting, and a fork in the middle of a call is safe.
#[derive(Debug)]
pub struct Counter {
    merges: Merges,
    added: Added,
    nfc: bool,
    template: u64,
    entries: usize,
    characters: Characters,
    caches: Mutex<Vec<WordCache>>,
}

impl Counter {
    /// Read a `tokenizer.json`. A file that would not be counted as the reference does is refused, with the reason.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let Definition { nfc, added, template, merges, entries } = tokenizer_json::read(json).map_err(Error::Value)?;
        Ok(Self {
            merges,
            added: Added::new(added),
            nfc,
            template,
            entries,
            characters: Characters::new(),
            caches: Mutex::new(Vec::new()),
        })
    }

    /// Tokens of the vocabulary, added tokens included.
    pub fn entries(&self) -> usize {
        self.entries + self.added.texts.len()
    }

    /// Clear all word caches, for benchmarks.
    pub fn forget(&self) {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The number of tokens of `text`.
    pub fn count(&self, text: &str) -> u64 {
        let mut cache = self.take();
        let count = self.count_with(text, &mut cache);
        self.give_back(cache);
        count
    }

    /// The number of tokens of each text. By default the work decides the number of threads. An error from `check`, which
    /// is called now and then, ends the counting.
    pub fn count_batch(
        &self,
        texts: &[&str],
        threads: Option<NonZero<usize>>,
        check: &mut (dyn FnMut() -> Result<(), Error> + Send),
    ) -> Result<Vec<u64>, Error> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let threads = threads.map_or_else(
            || thread::available_parallelism().map_or(1, NonZero::get).min(bytes / BYTES_PER_THREAD),
            NonZero::get,
        );
        let threads = threads.min(MOST_THREADS).clamp(1, texts.len().max(1));
        let batch = (texts.len() / (TIMES * threads)).clamp(1, BATCH);
        let mut counts = vec![0; texts.len()];
        let work = Mutex::new(counts.chunks_mut(batch).zip(texts.chunks(batch)));
        let stopped = AtomicBool::new(false);
        let run = |check: &mut dyn FnMut() -> Result<(), Error>| {
            let mut cache = self.take();
            let mut since = 0;
            let mut outcome = Ok(());
            while !stopped.load(Ordering::Relaxed) {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((counts, texts)) = next else { break };
                for (to, text) in counts.iter_mut().zip(texts) {
                    *to = self.count_with(text, &mut cache);
                    since += text.len();
                }
                if since >= CHECK_BYTES {
                    since = 0;
                    outcome = check();
                    if outcome.is_err() {
                        stopped.store(true, Ordering::Relaxed);
                    }
                }
            }
            self.give_back(cache);
            outcome
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // Where the system starts no more threads, the present ones do the work.
                let builder = thread::Builder::new().name("ctxembed-tokens".to_owned());
                if builder.spawn_scoped(scope, || run(&mut || Ok(()))).is_err() {
                    break;
                }
            }
            run(check)
        })?;
        Ok(counts)
    }

    /// A cache from the pool; a new one if the pool is empty or locked, which it stays after a fork with the lock held.
    fn take(&self) -> WordCache {
        let kept = self.caches.try_lock().ok().and_then(|mut caches| caches.pop());
        kept.unwrap_or_else(WordCache::new)
    }

    fn give_back(&self, cache: WordCache) {
        if let Ok(mut caches) = self.caches.try_lock()
            && caches.len() < CACHES
        {
            caches.push(cache);
        }
    }

    fn count_with(&self, text: &str, cache: &mut WordCache) -> u64 {
        let mut count = self.template;
        let mut rest = text;
        // The pattern and NFC do not look across an added token.
        while let Some(found) = self.added.find(rest) {
            count += self.count_plain(&rest[..found.start], cache) + 1;
            rest = &rest[found.end..];
        }
        count + self.count_plain(rest, cache)
    }

    /// The number of tokens of text without added tokens.
    fn count_plain(&self, text: &str, cache: &mut WordCache) -> u64 {
        if !self.nfc {
            return self.count_words::<false>(text, cache).unwrap_or(0);
        }
        self.count_words::<true>(text, cache).unwrap_or_else(|| {
            let normal = nfc(text);
            self.count_words::<false>(&normal, cache).unwrap_or(0)
        })
    }

    /// The number of tokens of text in NFC. With `CHECK`, None if the text may not be in NFC.
    #[inline]
    fn count_words<const CHECK: bool>(&self, text: &str, cache: &mut WordCache) -> Option<u64> {
        let bytes = text.as_bytes();
        let mut count = 0;
        let mut splitter = Splitter::<CHECK>::new(text, &self.characters);
        while let Some((start, end)) = splitter.next_word() {
            count += if end - start == 1 { 1 } else { cache.get(bytes, start, end, |word| self.merges.count(word)) };
        }
        (!splitter.may_change).then_some(count)
    }
}

/// Texts that are one token wherever they occur. The leftmost match counts, then the longest.
#[derive(Debug)]
struct Added {
    /// Sorted by first byte, then by descending length.
    texts: Vec<String>,
    /// The texts that start with a byte.
    by_byte: Vec<Range<usize>>,
    /// The first byte of all texts, if it is the same.
    only: Option<u8>,
}

impl Added {
    fn new(mut texts: Vec<String>) -> Self {
        texts.sort_unstable_by(|a, b| (a.as_bytes()[0], b.len(), a).cmp(&(b.as_bytes()[0], a.len(), b)));
        texts.dedup();
        let by_byte: Vec<Range<usize>> = (0..=255)
            .map(|byte| {
                let start = texts.partition_point(|text| text.as_bytes()[0] < byte);
                start..start + texts[start..].partition_point(|text| text.as_bytes()[0] == byte)
            })
            .collect();
        let only = texts.first().map(|text| text.as_bytes()[0]);
        let only = only.filter(|&byte| by_byte[usize::from(byte)].len() == texts.len());
        Self { texts, by_byte, only }
    }

    /// The first match in `text`.
    fn find(&self, text: &str) -> Option<Range<usize>> {
        let bytes = text.as_bytes();
        let mut at = 0;
        loop {
            at += self.next_candidate(&bytes[at..])?;
            for token in &self.texts[self.by_byte[usize::from(bytes[at])].clone()] {
                if bytes[at..].starts_with(token.as_bytes()) {
                    return Some(at..at + token.len());
                }
            }
            at += 1;
        }
    }

    /// The first position whose byte one of the texts starts with.
    fn next_candidate(&self, bytes: &[u8]) -> Option<usize> {
        let Some(only) = self.only else {
            return bytes.iter().position(|&byte| !self.by_byte[usize::from(byte)].is_empty());
        };
        // The compiler vectorises the comparison of a whole block.
        let holds = |block: &[u8; 64]| block.iter().fold(0, |found, &byte| found | u8::from(byte == only)) != 0;
        let clear = bytes.as_chunks::<64>().0.iter().take_while(|block| !holds(block));
        let at = 64 * clear.count();
        bytes[at..].iter().position(|&byte| byte == only).map(|found| at + found)
    }
}
