//! Reads a `tokenizer.json`. A file that this crate would not count as the reference does is refused.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::bpe::{self, Merges, Numbered};
use super::pretokenizer::PATTERN;

/// The parts of a file that counting needs.
#[derive(Debug)]
pub(super) struct Definition {
    /// Whether text is normalised to NFC.
    pub(super) nfc: bool,
    /// Texts that are one token each, wherever they occur.
    pub(super) added: Vec<String>,
    /// Tokens that the file's template adds to every text.
    pub(super) template: u64,
    pub(super) merges: Merges,
    /// Entries of the vocabulary, added tokens not included.
    pub(super) entries: usize,
}

/// The reason why a file is refused.
pub(super) type Refusal = String;

pub(super) fn read(json: &[u8]) -> Result<Definition, Refusal> {
    let file: File =
        serde_json::from_slice(json).map_err(|error| format!("not a tokenizer.json of a known form: {error}"))?;
    if file.version != "1.0" {
        return Err(format!("version must be \"1.0\", got {:?}", file.version));
    }
    absent("truncation", &file.truncation)?;
    absent("padding", &file.padding)?;
    let nfc = match &file.normalizer {
        Value::Null => false,
        value if *value == serde_json::json!({"type": "NFC"}) => true,
        value => return Err(unknown("normalizer", value, "NFC or null")),
    };
    pre_tokenizer(&file.pre_tokenizer)?;
    let template = template(&file.post_processor)?;
    let mut added = Vec::with_capacity(file.added_tokens.len());
    for token in file.added_tokens {
        if token.single_word || token.lstrip || token.rstrip || token.normalized {
            return Err(format!(
                "added token {:?} has one of single_word, lstrip, rstrip, normalized set; expected none",
                token.content
            ));
        }
        // The reference ignores empty tokens.
        if !token.content.is_empty() {
            added.push(token.content);
        }
    }
    let model = file.model;
    if model.kind != "BPE" {
        return Err(format!("model.type must be \"BPE\", got {:?}", model.kind));
    }
    absent("model.unk_token", &model.unk_token)?;
    for (name, value) in
        [("fuse_unk", model.fuse_unk), ("byte_fallback", model.byte_fallback), ("ignore_merges", model.ignore_merges)]
    {
        if value {
            return Err(format!("model.{name} must be false, got true"));
        }
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err("model.dropout is set: counts would be random".to_owned());
    }
    for (name, value) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if value.as_ref().is_some_and(|value| !value.is_empty()) {
            return Err(format!("model.{name} must be empty or null, got {:?}", value.as_deref().unwrap_or_default()));
        }
    }
    let merges = number(&model.vocab, &model.merges)?;
    Ok(Definition { nfc, added, template, merges: Merges::new(&merges), entries: model.vocab.0.len() })
}

fn absent(name: &str, value: &Value) -> Result<(), Refusal> {
    if value.is_null() { Ok(()) } else { Err(unknown(name, value, "null")) }
}

fn unknown(name: &str, value: &Value, expected: &str) -> Refusal {
    let mut shown = value.to_string();
    if shown.chars().count() > 200 {
        shown = shown.chars().take(197).chain("...".chars()).collect();
    }
    format!("{name} must be {expected}, got {shown}")
}

/// Refuse all but Qwen's pattern, then bytes.
fn pre_tokenizer(value: &Value) -> Result<(), Refusal> {
    let refusal = || unknown("pre_tokenizer", value, "a Split by Qwen's pattern, isolated, then ByteLevel");
    let known = value["type"] == "Sequence"
        && match value["pretokenizers"].as_array().map(Vec::as_slice) {
            Some([split, bytes]) => {
                split["type"] == "Split"
                    && split["pattern"]["Regex"] == PATTERN
                    && split["behavior"] == "Isolated"
                    && split["invert"] == false
                    && bytes["type"] == "ByteLevel"
                    && bytes["add_prefix_space"] == false
                    && bytes["use_regex"] == false
            }
            _ => false,
        };
    if known { Ok(()) } else { Err(refusal()) }
}

/// The number of tokens that a post-processor adds to a single text.
fn template(value: &Value) -> Result<u64, Refusal> {
    let refusal = || unknown("post_processor", value, "null, ByteLevel, or a TemplateProcessing of one sequence");
    let parts = match value["type"].as_str() {
        None if value.is_null() => return Ok(0),
        Some("Sequence") => value["processors"].as_array().ok_or_else(refusal)?.as_slice(),
        _ => std::slice::from_ref(value),
    };
    let mut found = None;
    for part in parts {
        match part["type"].as_str() {
            Some("ByteLevel") => {} // moves offsets, adds nothing
            Some("TemplateProcessing") if found.is_none() => {
                let mut tokens = 0;
                let mut sequences = 0;
                for piece in part["single"].as_array().ok_or_else(refusal)? {
                    if piece["Sequence"]["id"] == "A" {
                        sequences += 1;
                    } else {
                        let name = piece["SpecialToken"]["id"].as_str().ok_or_else(refusal)?;
                        tokens += part["special_tokens"][name]["ids"].as_array().ok_or_else(refusal)?.len() as u64;
                    }
                }
                if sequences != 1 {
                    return Err(refusal());
                }
                found = Some(tokens);
            }
            _ => return Err(refusal()),
        }
    }
    Ok(found.unwrap_or(0))
}

/// The merges by token id. Counting uses ranks alone, which is sound if every byte is in the vocabulary and no two merges
/// make the same token.
fn number(vocabulary: &Vocabulary, merges: &Strings) -> Result<Numbered, Refusal> {
    if merges.len() / 2 > bpe::MOST {
        return Err(format!("model.merges has {} merges, at most {} are counted", merges.len() / 2, bpe::MOST));
    }
    let mut known: HashSet<&[u8]> = HashSet::with_capacity(vocabulary.0.len());
    for token in vocabulary.0.iter() {
        if !known.insert(token) {
            return Err(format!("model.vocab has {:?} twice", String::from_utf8_lossy(token)));
        }
    }
    let mut numbered = Numbered::default();
    let mut made: HashMap<Vec<u8>, u32> = HashMap::with_capacity(merges.len() / 2 + 256);
    for byte in 0..=255_u8 {
        if !known.contains(&[byte][..]) {
            return Err(format!("model.vocab has no token for the byte {byte:#04x}"));
        }
        made.insert(vec![byte], u32::from(byte));
    }
    for rank in 0..merges.len() / 2 {
        let (left, right) = (merges.get(2 * rank), merges.get(2 * rank + 1));
        let token = [left, right].concat();
        for part in [left, right, &token] {
            if !known.contains(part) {
                return Err(format!("model.merges[{rank}]: {:?} is not in model.vocab", String::from_utf8_lossy(part)));
            }
        }
        numbered.classify(left, right, rank as u32);
        if let Some(other) = made.insert(token, 256 + rank as u32) {
            let other = i64::from(other) - 256;
            return Err(format!("model.merges[{rank}] makes the token that model.merges[{other}] makes"));
        }
    }
    // A merge never applies if no merge makes one of its tokens.
    numbered.merges.extend((0..merges.len() / 2).filter_map(|rank| {
        let part = |i: usize| made.get(merges.get(2 * rank + i)).copied();
        Some((part(0)?, part(1)?, rank as u32))
    }));
    Ok(numbered)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: String,
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
    added_tokens: Vec<AddedToken>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    #[serde(rename = "decoder")]
    _decoder: Value,
    model: Model,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the file's fields")]
struct AddedToken {
    #[serde(rename = "id")]
    _id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    #[serde(rename = "special")]
    _special: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: Vocabulary,
    merges: Strings,
}

/// Byte strings in one allocation.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Strings {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.bytes[start..self.ends[i] as usize]
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Add a token as the file spells it: one character for each byte.
    fn push(&mut self, token: &str) -> Result<(), Refusal> {
        let short = |_| "memory is short".to_owned();
        self.bytes.try_reserve(token.len()).map_err(short)?;
        self.ends.try_reserve(1).map_err(short)?;
        for c in token.chars() {
            self.bytes.push(byte_of(c).ok_or_else(|| {
                format!("token {token:?} has the character {c:?}, which stands for no byte: not byte-level BPE")
            })?);
        }
        self.ends.push(u32::try_from(self.bytes.len()).map_err(|_| "the vocabulary is larger than 4 GiB".to_owned())?);
        Ok(())
    }
}

/// The byte that a character of a byte-level vocabulary stands for. Printable Latin-1 characters stand for themselves, the
/// characters from U+0100 for the other 68 bytes in order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        scalar @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(scalar as u8),
        scalar @ 0x100..=0x120 => Some((scalar - 0x100) as u8),
        scalar @ 0x121..=0x142 => Some((scalar - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// `model.vocab`. Its ids only need to be distinct.
struct Vocabulary(Strings);

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut strings = Strings::default();
                let mut numbers: Vec<u32> = Vec::new();
                while map.next_key_seed(Token(&mut strings))?.is_some() {
                    numbers.push(map.next_value()?);
                }
                numbers.sort_unstable();
                let entries = numbers.len();
                numbers.dedup();
                if numbers.len() < entries {
                    return Err(A::Error::custom("two tokens of model.vocab have the same number"));
                }
                Ok(Vocabulary(strings))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Strings {
    /// Merges: pairs of strings, or strings with one space.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut strings = Strings::default();
                while seq.next_element_seed(Merge(&mut strings))?.is_some() {}
                Ok(strings)
            }
        }
        deserializer.deserialize_seq(Pairs)
    }
}

/// Reads one string and adds it.
struct Token<'a>(&'a mut Strings);

impl<'de> DeserializeSeed<'de> for Token<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Token<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }

    fn visit_str<E: serde::de::Error>(self, token: &str) -> Result<(), E> {
        self.0.push(token).map_err(E::custom)
    }
}

/// Reads two strings: `["a", "b"]`, or `"a b"` as in older files.
struct Merge<'a>(&'a mut Strings);

impl<'de> DeserializeSeed<'de> for Merge<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a merge of two tokens")
    }

    fn visit_str<E: serde::de::Error>(self, merge: &str) -> Result<(), E> {
        let (left, right) = merge.split_once(' ').ok_or_else(|| E::custom(format!("merge {merge:?} has no space")))?;
        self.0.push(left).and_then(|()| self.0.push(right)).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for _ in 0..2 {
            seq.next_element_seed(Token(self.0))?.ok_or_else(|| A::Error::custom("a merge is two tokens"))?;
        }
        match seq.next_element::<serde::de::IgnoredAny>()? {
            None => Ok(()),
            Some(_) => Err(A::Error::custom("a merge is two tokens")),
        }
    }
}
