//! Exact cover: some of the fills, such that every document is in exactly one.
//!
//! Depth first, on the document with the fewest fills left (Knuth, "Dancing links", Millennial Perspectives in Computer
//! Science, 2000). A set of documents is a word, so that a branch is one pass over the list of fills, which finds those
//! that meet no document taken, and sees which documents are in none of them or in one. When at most 64 documents are
//! open they are numbered anew, since words of 64 bits are twice as fast. The search keeps its own stack, so that it can
//! stop when its steps run out and go on later.

use std::ops::{BitAnd, BitOr, BitXor, Not};

use super::fills::{Fill, Waste};
use super::search::Clock;

/// Fills that count a document, in bits: more than are ever listed.
const PLANES: usize = 14;
/// Steps of a branch beside five for each four fills in its list.
const BRANCH: u64 = 24;

/// What a search has shown so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// These fills cover the documents: see [`Search::chosen`].
    Cover,
    /// No fills do.
    NoCover,
    /// Nothing: steps ran out.
    Nothing,
}

/// A search that can be interrupted.
pub(super) struct Search {
    wide: Depth<u128>,
    narrow: Depth<u64>,
    /// The document of each place in a narrow set.
    documents: [u8; 64],
    /// What is not yet branched on.
    next: Next<u128>,
}

impl Search {
    /// Cover the documents `open` by some of `fills`, which hold no others, and may waste `waste` in sum.
    ///
    /// Of documents with equally few fills the search takes the first, or the last where `backwards`.
    pub(super) fn new(open: u128, fills: &[Fill], waste: Waste, backwards: bool) -> Self {
        let slack = fills.iter().any(|fill| fill.waste != [0, 0]);
        let mut wide = Depth::new(slack, backwards);
        wide.sets.extend(fills.iter().map(|fill| fill.documents));
        if slack {
            wide.wastes.extend(fills.iter().map(|fill| fill.waste));
        }
        let (once, twice) = wide.sets.iter().fold((0, 0), |(once, twice), &set| (once | set, twice | (once & set)));
        let next = wide.enter(Node { open, waste, start: 0, end: fills.len(), once, twice });
        Self { wide, narrow: Depth::new(slack, backwards), documents: [0; 64], next }
    }

    /// Search for about so many steps, from where the last call stopped.
    pub(super) fn run(&mut self, steps: u64, clock: &mut Clock<'_>) -> Shown {
        let mut budget = Budget { steps, clock };
        loop {
            match std::mem::replace(&mut self.next, Next::Branch) {
                Next::Covered => {
                    self.next = Next::Covered;
                    return Shown::Cover;
                }
                Next::Narrow(node) => self.enter_narrow(&node),
                Next::Branch => {}
            }
            match self.narrow.run(&mut budget) {
                Stop::Steps => return Shown::Nothing,
                Stop::Next(_) => {
                    self.next = Next::Covered;
                    continue;
                }
                Stop::Exhausted => {}
            }
            match self.wide.run(&mut budget) {
                Stop::Steps => return Shown::Nothing,
                Stop::Next(next) => self.next = next,
                Stop::Exhausted => return Shown::NoCover,
            }
        }
    }

    /// The fills of a cover that was found.
    pub(super) fn chosen(&self) -> impl Iterator<Item = u128> + '_ {
        let widened = |&set: &u64| bits(u128::from(set)).fold(0, |wide, place| wide | 1 << self.documents[place]);
        self.wide.chosen.iter().copied().chain(self.narrow.chosen.iter().map(widened))
    }

    /// Number the open documents of `node` anew and branch on them.
    fn enter_narrow(&mut self, node: &Node<u128>) {
        let mut places = [0u8; 128];
        for (place, document) in bits(node.open).enumerate() {
            places[document] = place as u8;
            self.documents[place] = document as u8;
        }
        let narrow = |set: u128| bits(set).fold(0, |narrow, document| narrow | 1 << places[document]);
        self.narrow.chosen.clear();
        self.narrow.sets.clear();
        self.narrow.sets.extend(self.wide.sets[node.start..node.end].iter().map(|&set| narrow(set)));
        if self.narrow.slack {
            self.narrow.wastes.clear();
            self.narrow.wastes.extend_from_slice(&self.wide.wastes[node.start..node.end]);
        }
        // The node is settled: every document is in two fills at least, and need not be looked at again.
        self.narrow.branch(&Node {
            open: narrow(node.open),
            waste: node.waste,
            start: 0,
            end: node.end - node.start,
            once: narrow(node.once),
            twice: narrow(node.twice),
        });
    }
}

/// Positions of the bits that are set, ascending.
fn bits(mut set: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        set &= set.wrapping_sub(1);
        (bit < 128).then_some(bit)
    })
}

struct Budget<'a, 'b> {
    steps: u64,
    clock: &'a mut Clock<'b>,
}

impl Budget<'_, '_> {
    fn spend(&mut self, steps: u64) -> bool {
        if self.steps < steps {
            return false;
        }
        self.steps -= steps;
        self.clock.spend(steps)
    }
}

/// A set of documents.
trait Set:
    Copy + PartialEq + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    const NONE: Self;
    /// Whether there is a narrower word.
    const WIDE: bool;
    fn lowest(self) -> Self;
    fn highest(self) -> Self;
    fn is_narrow(self) -> bool;
}

impl Set for u64 {
    const NONE: Self = 0;
    const WIDE: bool = false;
    fn lowest(self) -> Self {
        self & self.wrapping_neg()
    }
    fn highest(self) -> Self {
        1 << self.ilog2()
    }
    fn is_narrow(self) -> bool {
        true
    }
}

impl Set for u128 {
    const NONE: Self = 0;
    const WIDE: bool = true;
    fn lowest(self) -> Self {
        self & self.wrapping_neg()
    }
    fn highest(self) -> Self {
        1 << self.ilog2()
    }
    fn is_narrow(self) -> bool {
        self.count_ones() <= u64::BITS
    }
}

/// Documents that are open, and the fills that are left for them.
struct Node<S> {
    open: S,
    waste: Waste,
    /// The fills, among the sets.
    start: usize,
    end: usize,
    /// Documents in at least one of them, and in at least two.
    once: S,
    twice: S,
}

/// A node whose documents are being tried.
struct Frame<S> {
    open: S,
    waste: Waste,
    /// Fills without the document branched on are from `start` to `rest`, those with it from there to `end`.
    start: usize,
    rest: usize,
    end: usize,
    /// The next to be tried.
    at: usize,
    /// Fills that were chosen before.
    chosen: usize,
}

/// What a node leads to.
enum Next<S> {
    /// Every document is covered.
    Covered,
    /// So few documents that narrower words hold them.
    Narrow(Node<S>),
    /// The next branch: that of the node, or of one before if it is a dead end.
    Branch,
}

/// Why a depth stopped.
enum Stop<S> {
    Steps,
    Exhausted,
    Next(Next<S>),
}

/// The stack of a search, with sets of one width.
struct Depth<S> {
    /// The lists of all frames, one behind the other, and what each fill wastes where any wastes something.
    sets: Vec<S>,
    wastes: Vec<Waste>,
    slack: bool,
    backwards: bool,
    frames: Vec<Frame<S>>,
    chosen: Vec<S>,
}

impl<S: Set> Depth<S> {
    fn new(slack: bool, backwards: bool) -> Self {
        Self { sets: Vec::new(), wastes: Vec::new(), slack, backwards, frames: Vec::new(), chosen: Vec::new() }
    }

    fn run(&mut self, budget: &mut Budget<'_, '_>) -> Stop<S> {
        while let Some(frame) = self.frames.last() {
            if frame.at == frame.end {
                self.frames.pop();
                continue;
            }
            let fills = (frame.rest - frame.start) as u64;
            if !budget.spend(BRANCH + fills + fills / 4) {
                return Stop::Steps;
            }
            let Some(node) = self.child() else { continue };
            match self.enter(node) {
                Next::Branch => {}
                next => return Stop::Next(next),
            }
        }
        Stop::Exhausted
    }

    /// Choose the next fill of the last frame: what is left then, if every document is in some fill.
    fn child(&mut self) -> Option<Node<S>> {
        let frame = self.frames.last_mut()?;
        let at = frame.at;
        frame.at += 1;
        let (start, rest, end) = (frame.start, frame.rest, frame.end);
        let fill = self.sets[at];
        let open = frame.open & !fill;
        let mut waste = frame.waste;
        self.chosen.truncate(frame.chosen);
        self.chosen.push(fill);
        if self.sets.len() < end + rest - start {
            self.sets.resize(end + rest - start, S::NONE);
        }
        let (lists, room) = self.sets.split_at_mut(end);
        let (mut once, mut twice) = (S::NONE, S::NONE);
        let mut to = 0;
        if self.slack {
            if self.wastes.len() < end + rest - start {
                self.wastes.resize(end + rest - start, [0, 0]);
            }
            let (wastes, waste_room) = self.wastes.split_at_mut(end);
            for (left, spent) in waste.iter_mut().zip(wastes[at]) {
                *left -= spent;
            }
            for (&set, &wasted) in lists[start..rest].iter().zip(&wastes[start..rest]) {
                if set & fill == S::NONE && wasted[0] <= waste[0] && wasted[1] <= waste[1] {
                    (room[to], waste_room[to]) = (set, wasted);
                    to += 1;
                    twice = twice | once & set;
                    once = once | set;
                }
            }
        } else {
            // Without a branch: which fills are kept is as good as random.
            for &set in &lists[start..rest] {
                room[to] = set;
                let kept = set & fill == S::NONE;
                to += usize::from(kept);
                let set = if kept { set } else { S::NONE };
                twice = twice | once & set;
                once = once | set;
            }
        }
        (open & !once == S::NONE).then_some(Node { open, waste, start: end, end: end + to, once, twice })
    }

    /// Take the fills that are the only ones of a document, then branch on a document with the fewest.
    fn enter(&mut self, mut node: Node<S>) -> Next<S> {
        while node.open != S::NONE {
            if node.open & !node.once != S::NONE {
                return Next::Branch;
            }
            let single = node.open & !node.twice;
            if single == S::NONE {
                if S::WIDE && node.open.is_narrow() {
                    return Next::Narrow(node);
                }
                self.branch(&node);
                return Next::Branch;
            }
            let mut taken = S::NONE;
            for at in node.start..node.end {
                let set = self.sets[at];
                if set & single == S::NONE {
                    continue;
                }
                if set & taken != S::NONE || (self.slack && !spend(&mut node.waste, self.wastes[at])) {
                    return Next::Branch;
                }
                taken = taken | set;
                self.chosen.push(set);
            }
            node.open = node.open & !taken;
            (node.once, node.twice) = (S::NONE, S::NONE);
            let mut to = node.start;
            for at in node.start..node.end {
                let set = self.sets[at];
                let fits = |wasted: Waste| wasted[0] <= node.waste[0] && wasted[1] <= node.waste[1];
                if set & taken != S::NONE || (self.slack && !fits(self.wastes[at])) {
                    continue;
                }
                self.sets[to] = set;
                if self.slack {
                    self.wastes[to] = self.wastes[at];
                }
                to += 1;
                node.twice = node.twice | node.once & set;
                node.once = node.once | set;
            }
            node.end = to;
        }
        Next::Covered
    }

    /// Try the fills of a document with the fewest, one after the other.
    fn branch(&mut self, node: &Node<S>) {
        let sets = &mut self.sets[node.start..node.end];
        let fewest = rarest(node.open, sets);
        let document = if self.backwards { fewest.highest() } else { fewest.lowest() };
        // Those with it behind the others, which are all that the children look at.
        let (mut at, mut rest) = (0, sets.len());
        while at < rest {
            if sets[at] & document == S::NONE {
                at += 1;
            } else {
                rest -= 1;
                sets.swap(at, rest);
                if self.slack {
                    self.wastes.swap(node.start + at, node.start + rest);
                }
            }
        }
        let rest = node.start + rest;
        let chosen = self.chosen.len();
        let (open, waste, start, end) = (node.open, node.waste, node.start, node.end);
        self.frames.push(Frame { open, waste, start, rest, end, at: rest, chosen });
    }
}

/// Take `spent` from `left` if there is enough.
fn spend(left: &mut Waste, spent: Waste) -> bool {
    let enough = spent[0] <= left[0] && spent[1] <= left[1];
    if enough {
        *left = [left[0] - spent[0], left[1] - spent[1]];
    }
    enough
}

/// Add three words bit by bit: the sum, and what is carried.
fn add<S: Set>(a: S, b: S, c: S) -> (S, S) {
    let half = a ^ b;
    (half ^ c, (a & b) | (half & c))
}

/// The documents of `open` in the fewest sets.
fn rarest<S: Set>(open: S, sets: &[S]) -> S {
    // All documents are counted at once: plane p holds bit p of each count. Eight sets are added before what they
    // carry moves on to higher planes (Harley and Seal's way to count bits).
    let mut planes = [S::NONE; PLANES];
    let (mut ones, mut twos, mut fours) = (S::NONE, S::NONE, S::NONE);
    let mut count = |eight: &[S; 8]| {
        let (a, b, c, d, e, f);
        (ones, a) = add(ones, eight[0], eight[1]);
        (ones, b) = add(ones, eight[2], eight[3]);
        (twos, e) = add(twos, a, b);
        (ones, c) = add(ones, eight[4], eight[5]);
        (ones, d) = add(ones, eight[6], eight[7]);
        (twos, f) = add(twos, c, d);
        let mut carry;
        (fours, carry) = add(fours, e, f);
        for plane in &mut planes[3..] {
            if carry == S::NONE {
                break;
            }
            (*plane, carry) = (*plane ^ carry, *plane & carry);
        }
    };
    let (eights, rest) = sets.as_chunks();
    for eight in eights {
        count(eight);
    }
    let mut last = [S::NONE; 8];
    last[..rest.len()].copy_from_slice(rest);
    count(&last);
    planes[..3].copy_from_slice(&[ones, twos, fours]);
    let bits = usize::BITS - sets.len().leading_zeros();
    let mut rarest = open;
    for &plane in planes[..(bits as usize).min(PLANES)].iter().rev() {
        if rarest & !plane != S::NONE {
            rarest = rarest & !plane;
        }
    }
    rarest
}

#[cfg(test)]
mod tests {
    use super::super::Effort;
    use super::super::search::Random;
    use super::*;

    fn clock() -> Clock<'static> {
        Clock::new(&Effort { seconds: 1.0, interrupted: &|| false })
    }

    fn fills(sets: &[u128], waste: Waste) -> Vec<Fill> {
        sets.iter().map(|&documents| Fill { documents, waste }).collect()
    }

    /// What is shown, by calls of so many steps, and the fills of a cover.
    fn run(open: u128, fills: &[Fill], waste: Waste, backwards: bool, steps: u64) -> (Shown, Vec<u128>) {
        let mut search = Search::new(open, fills, waste, backwards);
        for _ in 0..((1u64 << 28) / steps.max(1)).min(1 << 16) {
            match search.run(steps, &mut clock()) {
                Shown::Nothing => {}
                Shown::Cover => return (Shown::Cover, search.chosen().collect()),
                Shown::NoCover => return (Shown::NoCover, Vec::new()),
            }
        }
        (Shown::Nothing, Vec::new())
    }

    #[test]
    fn a_cover_is_found_where_there_is_one_and_steps_are_left() {
        let sets = [0b0011, 0b0110, 0b1100, 0b1001, 0b0111, 0b1110];
        for backwards in [false, true] {
            let run = |waste, each, steps| run(0b1111, &fills(&sets, each), waste, backwards, steps);
            let (shown, chosen) = run([2, 2], [1, 1], 1_000);
            assert_eq!(shown, Shown::Cover);
            assert_eq!(chosen.iter().sum::<u128>(), 0b1111, "each document once");
            assert_eq!(run([0, 0], [0, 0], 1_000).0, Shown::Cover);
            assert_eq!(run([2, 1], [1, 1], 1_000).0, Shown::NoCover, "each wastes one, and two are needed");
            assert_eq!(run([1, 2], [1, 1], 1_000).0, Shown::NoCover);
            assert_eq!(run([2, 2], [1, 1], 5).0, Shown::Nothing, "no branch has so few steps");
        }
        assert_eq!(run(0b1111, &fills(&[0b0111, 0b1110], [0, 0]), [9, 9], false, 1_000).0, Shown::NoCover);
        assert_eq!(run(0, &[], [0, 0], false, 0).0, Shown::Cover);
    }

    /// Documents of all widths, cut at random into sets of three, among many other sets.
    #[test]
    fn covers_are_the_same_however_often_the_search_is_stopped() {
        let mut random = Random::new(5);
        for documents in [12u32, 63, 66, 90, 126] {
            for (slack, hidden) in [([0, 0], true), ([1, 2], true), ([0, 0], false)] {
                let mut order: Vec<u32> = (0..documents).collect();
                for at in (1..documents as usize).rev() {
                    order.swap(at, random.below(at as u32 + 1) as usize);
                }
                let set = |of: &[u32]| of.iter().fold(0u128, |set, &document| set | 1 << document);
                let mut sets: Vec<u128> = order.chunks(3).skip(usize::from(!hidden)).map(set).collect();
                for _ in 0..2 * documents {
                    let three: [u32; 3] = std::array::from_fn(|_| random.below(documents));
                    // Without the first of the hidden sets its first document is in no set.
                    if set(&three).count_ones() == 3 && (hidden || !three.contains(&order[0])) {
                        sets.push(set(&three));
                    }
                }
                let open = (1 << documents) - 1;
                let waste = [slack[0] * documents / 3, slack[1] * documents / 3];
                let whole = run(open, &fills(&sets, slack), waste, false, 1 << 22);
                let parts = run(open, &fills(&sets, slack), waste, false, 1 << 14);
                assert_eq!(whole, parts);
                assert_eq!(whole.0, if hidden { Shown::Cover } else { Shown::NoCover }, "{documents} {slack:?}");
                if hidden {
                    assert_eq!(whole.1.len() as u32, documents / 3);
                    assert_eq!(whole.1.iter().fold(0, |all, one| all | one), open);
                    assert!(whole.1.iter().all(|one| sets.contains(one)));
                }
            }
        }
    }

    #[test]
    fn the_rarest_documents_are_those_in_the_fewest_sets() {
        let sets = [0b0111u128, 0b0110, 0b1011, 0b1110, 0b1001];
        // Counts from the lowest: 3, 4, 3, 3.
        assert_eq!(rarest(0b1111, &sets), 0b1101);
        assert_eq!(rarest(0b0010, &sets), 0b0010);
        let mut random = Random::new(9);
        for count in [1, 7, 8, 9, 64, 1_000] {
            let sets: Vec<u64> = (0..count).map(|_| u64::from(random.below(1 << 20))).collect();
            let of = |document: u32| sets.iter().filter(|&&set| set >> document & 1 == 1).count();
            let fewest = (0..20).map(of).min();
            let wanted = (0..20).filter(|&document| Some(of(document)) == fewest).fold(0, |all, one| all | 1 << one);
            assert_eq!(rarest((1 << 20) - 1, &sets), wanted);
        }
    }
}
