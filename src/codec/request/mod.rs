//! Documents to the JSON of a request body, in two passes: the first measures the texts, the second copies and escapes
//! them into memory of the exact size.
//!
//! A path finds which of 64 bytes need an escape; all else is shared.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::mem::MaybeUninit;

use kernel::{BLOCK, Found, Kernel, Task};

use crate::error::Error;
use crate::isa::Isa;
use crate::memory;

/// Run `task` on the best path up to `isa`.
fn run<T: Task>(isa: Isa, task: T) -> T::Output {
    match isa.min(Isa::codec()) {
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX-512 F and BW.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Amx | Isa::Avx512 => unsafe { avx512::run(task) },
        // SAFETY: `Isa::codec` names this path only where the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Avx2 => unsafe { avx2::run(task) },
        // SAFETY: `Isa::codec` names a path above the portable one only where the CPU has NEON.
        #[cfg(target_arch = "aarch64")]
        #[expect(unsafe_code, reason = "dispatch to a target-feature function")]
        Isa::Neon | Isa::NeonDotprod | Isa::NeonI8mm => unsafe { neon::run(task) },
        Isa::Scalar => task.run(scalar::Scalar),
    }
}

/// Search less than a block.
#[inline(always)]
fn find_in_tail(kernel: impl Kernel, tail: &[u8]) -> Found {
    let mut block = [b' '; BLOCK];
    block[..tail.len()].copy_from_slice(tail);
    kernel.find(&block)
}

/// The JSON of each byte within a string, and the length of that in the last place.
static ESCAPED: [[u8; 8]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let short = match byte as u8 {
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            0x08 => b'b',
            0x0C => b'f',
            b'"' => b'"',
            b'\\' => b'\\',
            _ => 0,
        };
        table[byte] = if short != 0 {
            [b'\\', short, 0, 0, 0, 0, 0, 2]
        } else if byte < 0x20 {
            [b'\\', b'u', b'0', b'0', DIGITS[byte >> 4], DIGITS[byte & 15], 0, 6]
        } else {
            [byte as u8, 0, 0, 0, 0, 0, 0, 1]
        };
        byte += 1;
    }
    table
};

/// Bytes of the JSON of `byte`.
#[inline(always)]
fn length(byte: u8) -> usize {
    usize::from(ESCAPED[usize::from(byte)][7])
}

/// A text as the first pass measures it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of its JSON string, quotes included.
    pub size: usize,
    /// It has a `<`, with which the separator would begin.
    pub less_than: bool,
    /// All of it is ASCII.
    pub ascii: bool,
}

impl Measured {
    #[inline(always)]
    fn of(kernel: impl Kernel, text: &[u8]) -> Self {
        let mut measured = Self { size: text.len() + 2, less_than: false, ascii: true };
        let (blocks, tail) = text.as_chunks::<BLOCK>();
        for block in blocks {
            measured.add(kernel.find(block), block);
        }
        if !tail.is_empty() {
            measured.add(find_in_tail(kernel, tail), tail);
        }
        measured
    }

    #[inline(always)]
    fn add(&mut self, found: Found, bytes: &[u8]) {
        self.less_than |= found.less_than;
        self.ascii &= !found.non_ascii;
        let mut escapes = found.escapes;
        while escapes != 0 {
            self.size += length(bytes[escapes.trailing_zeros() as usize]) - 1;
            escapes &= escapes - 1;
        }
    }
}

/// Writes memory from its start to its end.
struct Writer<'a> {
    memory: &'a mut [MaybeUninit<u8>],
    at: usize,
}

impl Writer<'_> {
    #[inline(always)]
    fn push(&mut self, bytes: &[u8]) {
        for (to, &byte) in self.memory[self.at..self.at + bytes.len()].iter_mut().zip(bytes) {
            to.write(byte);
        }
        self.at += bytes.len();
    }

    /// Write the JSON of one byte of a string.
    #[inline(always)]
    fn byte(&mut self, byte: u8) {
        let escaped = &ESCAPED[usize::from(byte)];
        match self.memory[self.at..].first_chunk_mut::<8>() {
            // The next write overwrites the bytes beyond the length.
            Some(to) => {
                *to = escaped.map(MaybeUninit::new);
                self.at += length(byte);
            }
            None => self.push(&escaped[..length(byte)]),
        }
    }

    /// Copy the first `length` bytes of a block; where there is room, all of it, for the next write to overwrite.
    #[inline(always)]
    fn block(&mut self, block: &[u8; BLOCK], length: usize) {
        match self.memory[self.at..].first_chunk_mut::<BLOCK>() {
            Some(to) => {
                *to = block.map(MaybeUninit::new);
                self.at += length;
            }
            None => self.push(&block[..length]),
        }
    }

    /// Write `text` as a JSON string, quotes included.
    #[inline(always)]
    fn string(&mut self, kernel: impl Kernel, text: &[u8]) {
        self.push(b"\"");
        let mut read = 0;
        while let Some(block) = text[read..].first_chunk::<BLOCK>() {
            let mut escapes = kernel.find(block).escapes;
            if escapes == 0 {
                self.block(block, BLOCK);
                read += BLOCK;
                continue;
            }
            // Copy the run before each escape as part of a whole block, while there is one.
            let end = read + BLOCK;
            while escapes != 0
                && let Some(run) = text[read..].first_chunk::<BLOCK>()
            {
                let plain = escapes.trailing_zeros() as usize;
                self.block(run, plain);
                self.byte(text[read + plain]);
                read += plain + 1;
                escapes = if plain + 1 < BLOCK { escapes >> (plain + 1) } else { 0 };
            }
            if escapes == 0
                && read < end
                && let Some(run) = text[read..].first_chunk::<BLOCK>()
            {
                self.block(run, end - read);
                read = end;
            }
        }
        let tail = &text[read..];
        if !tail.is_empty() && find_in_tail(kernel, tail).escapes == 0 {
            self.push(tail);
        } else {
            for &byte in tail {
                self.byte(byte);
            }
        }
        self.push(b"\"");
    }

    /// Write a JSON array, each of `items` by `write`.
    #[inline(always)]
    fn list<T>(&mut self, items: impl IntoIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.push(b"[");
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.push(b",");
            }
            write(self, item);
        }
        self.push(b"]");
    }
}

/// A request's body: `{"input":[["..."],...],<rest>`, compact, in UTF-8, escaped only where JSON requires it.
#[derive(Clone, Copy, Debug)]
pub struct Body<'a> {
    /// The chunks of all documents in order.
    pub texts: &'a [&'a str],
    /// Chunks of each document; without it the input is a flat list of texts.
    pub counts: Option<&'a [usize]>,
    /// The bytes after the input and a comma, the closing brace included.
    pub rest: &'a [u8],
}

const START: &[u8] = b"{\"input\":";

impl Body<'_> {
    /// Measure each text.
    pub fn measure(&self, isa: Isa) -> Result<Vec<Measured>, Error> {
        struct Measure<'a>(&'a [&'a str]);
        impl Task for Measure<'_> {
            type Output = Result<Vec<Measured>, Error>;
            #[inline(always)]
            fn run(self, kernel: impl Kernel) -> Self::Output {
                Ok(memory::collected(self.0.iter().map(|text| Measured::of(kernel, text.as_bytes())))?)
            }
        }
        run(isa, Measure(self.texts))
    }

    /// The exact number of bytes of the body, of which `measured` are the texts.
    pub fn size(&self, measured: &[Measured]) -> usize {
        let texts: usize = measured.iter().map(|text| text.size).sum();
        let lists = match self.counts {
            None => 2 + self.texts.len().saturating_sub(1),
            Some(counts) => {
                let within: usize = counts.iter().map(|&count| 2 + count.saturating_sub(1)).sum();
                2 + counts.len().saturating_sub(1) + within
            }
        };
        START.len() + texts + lists + 1 + self.rest.len()
    }

    /// Write the body to `memory`, which has its [`size`](Self::size): every byte is written.
    pub fn write(&self, isa: Isa, memory: &mut [MaybeUninit<u8>]) {
        struct Write<'a, 'b>(Body<'a>, &'b mut [MaybeUninit<u8>]);
        impl Task for Write<'_, '_> {
            type Output = ();
            #[inline(always)]
            fn run(self, kernel: impl Kernel) {
                let Self(body, memory) = self;
                let mut writer = Writer { memory, at: 0 };
                writer.push(START);
                let mut texts = body.texts.iter();
                match body.counts {
                    None => writer.list(texts, |writer, text| writer.string(kernel, text.as_bytes())),
                    Some(counts) => writer.list(counts, |writer, &count| {
                        writer.list(texts.by_ref().take(count), |writer, text| {
                            writer.string(kernel, text.as_bytes());
                        });
                    }),
                }
                writer.push(b",");
                writer.push(body.rest);
                assert_eq!(writer.at, writer.memory.len(), "memory of another size than the body's");
            }
        }
        run(isa, Write(*self, memory));
    }
}

#[cfg(test)]
mod tests;
