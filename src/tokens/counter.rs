//! Exact counts: added tokens, NFC, words, merges.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::cache::Cache;
use super::characters::{self, Characters};
use super::load::{self, Definition};
use super::merge::Merges;
use super::split::Splitter;
use crate::error::Error;

/// Most caches that are kept between calls: 4 MB each when full.
const CACHES: usize = 6;
/// Texts that a thread takes at a time, at most.
const TAKEN: usize = 32;
/// Times that a thread takes texts, where they are few: one may be far longer than the others.
const TIMES: usize = 8;
/// Most threads of a call, whatever is asked for.
const MOST_THREADS: usize = 256;
/// Bytes that are worth a thread: about a millisecond of work.
const WORTH_A_THREAD: usize = 200_000;
/// Bytes between two looks for signals.
const BETWEEN_LOOKS: usize = 4 << 20;

/// Counts the tokens of texts as one tokenizer does.
///
/// The tables never change. Each call, and each thread of a call, has a cache of words to itself, taken from a small
/// pool and given back; so nothing is shared while counting, and a fork in the middle of a call harms nobody.
#[derive(Debug)]
pub struct Counter {
    merges: Merges,
    added: Added,
    nfc: bool,
    template: u64,
    entries: usize,
    characters: Characters,
    caches: Mutex<Vec<Cache>>,
}

impl Counter {
    /// Read a `tokenizer.json`. What would be counted otherwise than by the reference is refused with a reason.
    pub fn from_json(json: &[u8]) -> Result<Self, Error> {
        let Definition { nfc, added, template, merges, entries } = load::read(json).map_err(Error::Value)?;
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

    /// Tokens of the vocabulary, added ones included.
    pub fn entries(&self) -> usize {
        self.entries + self.added.texts.len()
    }

    /// Forget all words, as if none had been counted: for measuring.
    pub fn forget(&self) {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The tokens of `text`.
    pub fn count(&self, text: &str) -> u64 {
        let mut cache = self.take();
        let count = self.count_with(text, &mut cache);
        self.give_back(cache);
        count
    }

    /// The tokens of each text, on `threads` threads, or on as many as the work is worth. `check` is called now and
    /// then, and its error ends the counting.
    pub fn count_batch(
        &self,
        texts: &[&str],
        threads: Option<NonZero<usize>>,
        check: &mut (dyn FnMut() -> Result<(), Error> + Send),
    ) -> Result<Vec<u64>, Error> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let threads = threads.map_or_else(
            || thread::available_parallelism().map_or(1, NonZero::get).min(bytes / WORTH_A_THREAD),
            NonZero::get,
        );
        let threads = threads.min(MOST_THREADS).clamp(1, texts.len().max(1));
        let taken = (texts.len() / (TIMES * threads)).clamp(1, TAKEN);
        let mut counts = vec![0; texts.len()];
        let work = Mutex::new(counts.chunks_mut(taken).zip(texts.chunks(taken)));
        let stopped = AtomicBool::new(false);
        let run = |check: &mut dyn FnMut() -> Result<(), Error>| {
            let mut cache = self.take();
            let mut since = 0;
            let mut outcome = Ok(());
            while !stopped.load(Ordering::Relaxed) {
                let taken = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((counts, texts)) = taken else { break };
                for (to, text) in counts.iter_mut().zip(texts) {
                    *to = self.count_with(text, &mut cache);
                    since += text.len();
                }
                if since >= BETWEEN_LOOKS {
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
                // Where the system has no thread left, those that there are do the work.
                let builder = thread::Builder::new().name("ctxembed-tokens".to_owned());
                if builder.spawn_scoped(scope, || run(&mut || Ok(()))).is_err() {
                    break;
                }
            }
            run(check)
        })?;
        Ok(counts)
    }

    /// A cache to use alone. A lock that is held elsewhere, or was when this process was forked, means a new one.
    fn take(&self) -> Cache {
        let kept = self.caches.try_lock().ok().and_then(|mut caches| caches.pop());
        kept.unwrap_or_else(Cache::new)
    }

    fn give_back(&self, cache: Cache) {
        if let Ok(mut caches) = self.caches.try_lock()
            && caches.len() < CACHES
        {
            caches.push(cache);
        }
    }

    fn count_with(&self, text: &str, cache: &mut Cache) -> u64 {
        let mut count = self.template;
        let mut rest = text;
        // The pattern and NFC see nothing beyond an added token.
        while let Some(found) = self.added.find(rest) {
            count += self.count_plain(&rest[..found.start], cache) + 1;
            rest = &rest[found.end..];
        }
        count + self.count_plain(rest, cache)
    }

    /// The tokens of text without added tokens.
    fn count_plain(&self, text: &str, cache: &mut Cache) -> u64 {
        if !self.nfc {
            return self.count_words::<false>(text, cache).unwrap_or(0);
        }
        self.count_words::<true>(text, cache).unwrap_or_else(|| {
            let normal = characters::nfc(text);
            self.count_words::<false>(&normal, cache).unwrap_or(0)
        })
    }

    /// The tokens of text in NFC. With `CHECK`, None where it may not be.
    #[inline]
    fn count_words<const CHECK: bool>(&self, text: &str, cache: &mut Cache) -> Option<u64> {
        let bytes = text.as_bytes();
        let mut count = 0;
        let mut splitter = Splitter::<CHECK>::new(text, &self.characters);
        while let Some((start, end)) = splitter.next_word() {
            count += if end - start == 1 { 1 } else { cache.get(bytes, start, end, |word| self.merges.count(word)) };
        }
        (!splitter.suspect).then_some(count)
    }
}

/// Texts that are one token wherever they stand; where several match, the leftmost and then the longest counts.
#[derive(Debug)]
struct Added {
    /// By first byte, then the longest first.
    texts: Vec<String>,
    /// The texts that start with a byte.
    by_byte: Vec<Range<usize>>,
    /// The first byte, where all have the same.
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

    /// Where the first of the texts stands in `text`.
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

    /// The first byte that one of the texts starts with.
    fn next_candidate(&self, bytes: &[u8]) -> Option<usize> {
        let Some(only) = self.only else {
            return bytes.iter().position(|&byte| !self.by_byte[usize::from(byte)].is_empty());
        };
        // Blocks are passed over as one: the compiler makes a few comparisons of all their bytes.
        let holds = |block: &[u8; 64]| block.iter().fold(0, |found, &byte| found | u8::from(byte == only)) != 0;
        let clear = bytes.as_chunks::<64>().0.iter().take_while(|block| !holds(block));
        let at = 64 * clear.count();
        bytes[at..].iter().position(|&byte| byte == only).map(|found| at + found)
    }
}
