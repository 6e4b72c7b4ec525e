//! Exact counts: added tokens, NFC, words, BPE.

use std::num::NonZero;
use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::bpe::Merges;
use super::characters::Characters;
use super::interrupts::{InterruptCheck, Interrupts, POLL_BYTES, Poll};
use super::nfc::nfc;
use super::parts::{Parts, Work};
use super::pretokenizer::Splitter;
use super::tokenizer_json::{self, Definition};
use super::word_cache::{LONGEST, WordCache};
use crate::error::Error;
use crate::memory;

/// Most caches that are kept between calls: 4 MB each when full.
const CACHES: usize = 6;
/// How often each thread takes work, since the same bytes take longer in one text than in another.
const TIMES: usize = 16;
/// Bytes that a thread takes at a time. Fewer would cost more than a better balance gains, and more would gain nothing.
const BYTES: RangeInclusive<usize> = 8 << 10..=64 << 10;
/// Bytes of the longest added token around which texts are cut: a cut looks for all of them at as many places.
const LONGEST_ADDED: usize = 256;
/// Most threads of a call.
const MOST_THREADS: usize = 256;
/// Bytes that justify another thread: about a millisecond of work.
const BYTES_PER_THREAD: usize = 200_000;
/// Time between two calls of `check` while the other threads still count.
const WAIT: Duration = Duration::from_millis(50);
/// Candidates of added tokens between two polls, a power of two.
const POLL_CANDIDATES: usize = 1 << 12;
/// Memory of reading a file: the tables, and a multiple of the file's bytes. Measured for vocabularies of Qwen.
const TABLES: usize = 8 << 20;
const READING: usize = 6;

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
        memory::check(TABLES + json.len().saturating_mul(READING))?;
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

    /// The number of tokens of `text`. The work decides the number of threads. An error from `check`, which is called now
    /// and then, ends the counting.
    pub fn count(&self, text: &str, check: InterruptCheck<'_>) -> Result<u64, Error> {
        if text.len() >= 2 * BYTES.start() {
            return Ok(self.count_batch(&[text], None, check)?[0]);
        }
        let mut cache = self.take()?;
        let mut interrupts = Interrupts::new(check);
        let count = self.count_part(text, &mut cache, &mut || interrupts.poll());
        self.give_back(cache);
        Ok(self.template + count?)
    }

    /// The number of tokens of each text. By default the work decides the number of threads. An error from `check`, which
    /// is called now and then, ends the counting.
    pub fn count_batch(
        &self,
        texts: &[&str],
        threads: Option<NonZero<usize>>,
        check: InterruptCheck<'_>,
    ) -> Result<Vec<u64>, Error> {
        let bytes: usize = texts.iter().map(|text| text.len()).sum();
        let threads = threads.map_or_else(
            || thread::available_parallelism().map_or(1, NonZero::get).min(bytes / BYTES_PER_THREAD),
            NonZero::get,
        );
        let threads = threads.clamp(1, MOST_THREADS);
        let size = (bytes / (TIMES * threads)).clamp(*BYTES.start(), *BYTES.end());
        // On one thread too: only the parts that are not in NFC are normalised.
        let parts = if self.added.longest <= LONGEST_ADDED { self.parts(texts, size)? } else { Parts::whole(texts) };
        let threads = threads.min(parts.parts.len()).max(1);
        let mut counts = memory::vector(parts.parts.len())?;
        counts.resize(parts.parts.len(), 0);
        let work = Mutex::new(Work::new(&parts.parts, &mut counts, size));
        let stopped = AtomicBool::new(false);
        let run = |check: &mut Poll<'_>| {
            let mut cache = self.take()?;
            let mut check = || if stopped.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { check() };
            let mut interrupts = Interrupts::new(&mut check);
            let mut outcome = Ok(());
            while outcome.is_ok() && !stopped.load(Ordering::Relaxed) {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((counts, texts)) = next else { break };
                outcome = counts.iter_mut().zip(texts).try_for_each(|(to, text)| {
                    *to = self.count_part(text, &mut cache, &mut || interrupts.poll())?;
                    interrupts.after(text.len())
                });
            }
            self.give_back(cache);
            outcome
        };
        let run = |check: &mut Poll<'_>| run(check).inspect_err(|_| stopped.store(true, Ordering::Relaxed));
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let others = Others::default();
        let outcome = thread::scope(|scope| {
            for _ in 1..threads {
                let counting = others.enter();
                let help = || {
                    let _counting = counting;
                    if let Err(error @ Error::Memory(_)) = run(&mut || Ok(())) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                };
                // Where the system starts no more threads, the present ones do the work.
                let builder = thread::Builder::new().name("ctxembed-tokens".to_owned());
                if builder.spawn_scoped(scope, help).is_err() {
                    break;
                }
            }
            let mine = run(check);
            let waited = others.wait(&mut || if stopped.load(Ordering::Relaxed) { Ok(()) } else { check() });
            mine.and(waited.inspect_err(|_| stopped.store(true, Ordering::Relaxed)))
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(outcome, Err)?;
        let mut counts = parts.sums(counts);
        counts.iter_mut().for_each(|count| *count += self.template);
        Ok(counts)
    }

    /// `texts`, the long ones cut into parts of about `size` bytes whose counts add up.
    fn parts<'a, 't>(&self, texts: &'a [&'t str], size: usize) -> Result<Parts<'a, 't>, Error> {
        Parts::new(texts, size, &self.characters, |text, at| self.added.any_across(text, at))
    }

    /// A cache from the pool; a new one if the pool is empty or locked, which it stays after a fork with the lock held.
    fn take(&self) -> Result<WordCache, Error> {
        let kept = self.caches.try_lock().ok().and_then(|mut caches| caches.pop());
        kept.map_or_else(WordCache::new, Ok)
    }

    fn give_back(&self, cache: WordCache) {
        if let Ok(mut caches) = self.caches.try_lock()
            && caches.len() < CACHES
        {
            caches.push(cache);
        }
    }

    /// The number of tokens of a text or a part of one, without those of the template.
    fn count_part(&self, text: &str, cache: &mut WordCache, poll: &mut Poll<'_>) -> Result<u64, Error> {
        let mut count = 0;
        let mut rest = text;
        // The pattern and NFC do not look across an added token.
        while let Some(found) = self.added.find(rest, poll)? {
            count += self.count_plain(&rest[..found.start], cache, poll)? + 1;
            rest = &rest[found.end..];
        }
        Ok(count + self.count_plain(rest, cache, poll)?)
    }

    /// The number of tokens of text without added tokens.
    fn count_plain(&self, text: &str, cache: &mut WordCache, poll: &mut Poll<'_>) -> Result<u64, Error> {
        if self.nfc {
            if let Some(count) = self.count_words::<true>(text, cache, poll)? {
                return Ok(count);
            }
            let normal = nfc(text, poll)?;
            return Ok(self.count_words::<false>(&normal, cache, poll)?.unwrap_or(0));
        }
        Ok(self.count_words::<false>(text, cache, poll)?.unwrap_or(0))
    }

    /// The number of tokens of text in NFC. With `CHECK`, None if the text may not be in NFC.
    #[inline]
    fn count_words<const CHECK: bool>(
        &self,
        text: &str,
        cache: &mut WordCache,
        poll: &mut Poll<'_>,
    ) -> Result<Option<u64>, Error> {
        let bytes = text.as_bytes();
        let mut count = 0;
        let mut next_poll = POLL_BYTES;
        let mut splitter = Splitter::<CHECK>::new(text, &self.characters);
        loop {
            // The inner loop calls nothing that a word of usual length does not need.
            let long = loop {
                let Some((start, end)) = splitter.next_word() else { break None };
                if end - start > LONGEST || end >= next_poll {
                    break Some((start, end));
                }
                let count_small = |word: &[u8]| self.merges.count_small(word);
                count += if end - start == 1 { 1 } else { cache.get(bytes, start, end, count_small) };
            };
            let Some((start, end)) = long else { break };
            count += self.merges.count(&bytes[start..end], poll)?;
            if end >= next_poll {
                next_poll = end + POLL_BYTES;
                poll()?;
            }
        }
        Ok((!splitter.may_change).then_some(count))
    }
}

/// The other threads of a call that still count.
#[derive(Default)]
struct Others {
    counting: Mutex<usize>,
    finished: Condvar,
}

/// One of them, until it is dropped.
struct Counting<'a>(&'a Others);

impl Others {
    fn enter(&self) -> Counting<'_> {
        *self.counting.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Counting(self)
    }

    /// Wait until no other thread counts. `check` is called now and then; its error ends the waiting.
    fn wait(&self, check: &mut Poll<'_>) -> Result<(), Error> {
        let mut counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
        while *counting > 0 {
            let waited = self.finished.wait_timeout(counting, WAIT).unwrap_or_else(PoisonError::into_inner);
            counting = waited.0;
            if waited.1.timed_out() {
                drop(counting);
                check()?;
                counting = self.counting.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
        Ok(())
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        *self.0.counting.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.finished.notify_all();
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
    /// Bytes of the longest.
    longest: usize,
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
        let longest = texts.iter().map(String::len).max().unwrap_or(0);
        Self { texts, by_byte, only, longest }
    }

    /// The first match in `text`.
    fn find(&self, text: &str, poll: &mut Poll<'_>) -> Result<Option<Range<usize>>, Error> {
        let bytes = text.as_bytes();
        let mut at = 0;
        let mut candidates = 0_usize;
        loop {
            let Some(skipped) = self.next_candidate(&bytes[at..]) else { return Ok(None) };
            at += skipped;
            candidates += 1;
            if candidates.is_multiple_of(POLL_CANDIDATES) {
                poll()?;
            }
            if let Some(token) = self.at(&bytes[at..]).next() {
                return Ok(Some(at..at + token.len()));
            }
            at += 1;
        }
    }

    /// The texts that `bytes`, which are not empty, start with: the longest first.
    fn at<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a str> {
        let texts = &self.texts[self.by_byte[usize::from(bytes[0])].clone()];
        texts.iter().map(String::as_str).filter(|text| bytes.starts_with(text.as_bytes()))
    }

    /// Whether one of the texts stands on both sides of `at`, be it a match or not.
    fn any_across(&self, text: &str, at: usize) -> bool {
        (at.saturating_sub(self.longest.saturating_sub(1))..at)
            .any(|start| self.at(&text.as_bytes()[start..]).any(|token| start + token.len() > at))
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

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use proptest::prelude::*;

    use super::*;

    fn counter() -> Counter {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tokenizer/tokenizer.json");
        Counter::from_json(&std::fs::read(path).expect("a vocabulary for tests")).expect("one that is supported")
    }

    /// Text of what begins, ends or joins words, and of parts of added tokens.
    fn texts() -> impl Strategy<Value = String> {
        let joints = "a Z é ß ſ 中 한 か ᄀ ᅡ ᆨ क़ क ़ ़ é ﬁ K Å Ω 1 ٣ ½ Ⅻ ' 's 'LL 'rE 'ſ ' \" ! -- = ≠ ̸ ́ ̣ ⃒ _ ( 。 “ — … 👍🏽 👨‍👩‍👧 ❤️ \
                      the token Word <|endoftext|> <|im_ <| |> <tool_call> </think> > < endoftext";
        let joints: Vec<&str> = joints.split(' ').chain(WHITE).collect();
        let joint = prop_oneof![
            5 => proptest::sample::select(joints).prop_map(str::to_owned),
            2 => proptest::sample::select(&WHITE[..]).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(joint, 1..24).prop_map(|joints| joints.concat())
    }

    const WHITE: [&str; 14] = [
        " ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\u{A0}", "\u{3000}", "\u{85}", "\u{2028}", "\u{0B}",
    ];

    #[test]
    fn parts_have_the_count_of_the_text() {
        let counter = counter();
        let cache = RefCell::new(WordCache::new().expect("memory"));
        let count = |text: &str| counter.count_part(text, &mut cache.borrow_mut(), &mut || Ok(())).expect("memory");
        let (cut, parts_of_all) = (Cell::new(0), Cell::new(0));
        proptest!(ProptestConfig::with_cases(1000), |(text in texts())| {
            let texts = [text.as_str()];
            for size in 1..text.len() {
                let parts = counter.parts(&texts, size).expect("memory");
                prop_assert_eq!(parts.parts.concat(), text.as_str());
                let counts = parts.parts.iter().map(|part| count(part)).collect();
                prop_assert_eq!(parts.sums(counts), [count(&text)], "{:?}", parts.parts);
                cut.set(cut.get() + usize::from(parts.parts.len() > 1));
                parts_of_all.set(parts_of_all.get() + parts.parts.len());
            }
        });
        assert!(cut.get() > 3000 && parts_of_all.get() > 15_000, "{cut:?} {parts_of_all:?}");
    }

    #[test]
    fn no_added_token_is_cut() {
        let counter = counter();
        let texts = ["1<|endoftext|> 2 ".repeat(9)];
        let text = texts[0].as_str();
        for at in (1..text.len()).filter(|&at| counter.added.any_across(text, at)) {
            let start = text[..at].rfind('<').expect("a token");
            assert!(text[start..].starts_with("<|endoftext|>") && at < start + 13, "{at}");
        }
        assert_eq!((1..text.len()).filter(|&at| counter.added.any_across(text, at)).count(), 9 * 12);
    }

    #[test]
    fn a_long_text_is_counted_in_parts() {
        let counter = counter();
        let text = "The heron's 12 reeds.\r\n  한국어 中文。e\u{301}<|endoftext|> ".repeat(4000);
        let mut cache = WordCache::new().expect("memory");
        let whole = counter.template + counter.count_part(&text, &mut cache, &mut || Ok(())).expect("memory");
        for threads in [1, 2, 3, 7] {
            let texts = ["a", &text, "", "b c"];
            let counts = counter.count_batch(&texts, NonZero::new(threads), &mut || Ok(())).expect("memory");
            assert_eq!(counts, [1, whole, 0, 2]);
        }
        assert_eq!(counter.count(&text, &mut || Ok(())).expect("memory"), whole);
    }
}
