//! Exact cover: subsets such that every document is in exactly one of them.
//!
//! A depth-first search that branches on the document in the fewest subsets (Knuth, "Dancing links", Millennial
//! Perspectives in Computer Science, 2000). A subset is an integer of one bit a document, so a branch is one pass over the
//! list of subsets: it keeps those disjoint from the chosen ones, and finds the documents that are in none or one of them.
//! When at most 64 documents are open they are renumbered, because integers of 64 bits are twice as fast.

use std::ops::{BitAnd, BitOr, BitXor, Not};

use super::super::budget::Budget;
use super::dimensions::Waste;
use super::tight_subsets::Subset;

/// Bits of a count of subsets: more than are ever enumerated.
const PLANES: usize = 14;
/// Steps of a branch, beside 5/4 of a step for each subset of its list.
const BRANCH: u64 = 24;

/// The result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// A cover: see [`ExactCover::chosen`].
    Cover,
    /// Proven: there is no cover.
    NoCover,
    /// The steps ran out.
    OutOfSteps,
}

/// A search for a cover.
pub(super) struct ExactCover {
    wide: Stack<u128>,
    narrow: Stack<u64>,
    /// The document of each bit of a narrow set.
    documents: [u8; 64],
    /// What the last branch led to.
    next: Next<u128>,
}

impl ExactCover {
    /// Cover the documents `open` by some of `subsets`, which hold no others and may waste `waste` in sum.
    ///
    /// Of documents in equally few subsets the search branches on the first, or on the last if `backwards`.
    pub(super) fn new(open: u128, subsets: &[Subset], waste: Waste, backwards: bool) -> Self {
        let slack = subsets.iter().any(|subset| subset.waste != [0, 0]);
        let mut wide = Stack::new(slack, backwards);
        wide.sets.extend(subsets.iter().map(|subset| subset.documents));
        if slack {
            wide.wastes.extend(subsets.iter().map(|subset| subset.waste));
        }
        let (once, twice) = wide.sets.iter().fold((0, 0), |(once, twice), &set| (once | set, twice | (once & set)));
        let next = wide.enter(Node { open, waste, start: 0, end: subsets.len(), once, twice });
        Self { wide, narrow: Stack::new(slack, backwards), documents: [0; 64], next }
    }

    /// Search for about `steps` steps.
    pub(super) fn run(&mut self, steps: u64, budget: &mut Budget<'_>) -> Status {
        let mut steps = Steps { left: steps, budget };
        loop {
            match std::mem::replace(&mut self.next, Next::Branch) {
                Next::Covered => {
                    self.next = Next::Covered;
                    return Status::Cover;
                }
                Next::Narrow(node) => self.enter_narrow(&node),
                Next::Branch => {}
            }
            match self.narrow.run(&mut steps) {
                Stop::OutOfSteps => return Status::OutOfSteps,
                Stop::Next(_) => {
                    self.next = Next::Covered;
                    continue;
                }
                Stop::Exhausted => {}
            }
            match self.wide.run(&mut steps) {
                Stop::OutOfSteps => return Status::OutOfSteps,
                Stop::Next(next) => self.next = next,
                Stop::Exhausted => return Status::NoCover,
            }
        }
    }

    /// The subsets of the cover that was found.
    pub(super) fn chosen(&self) -> impl Iterator<Item = u128> + '_ {
        let widened = |&set: &u64| bits(u128::from(set)).fold(0, |wide, place| wide | 1 << self.documents[place]);
        self.wide.chosen.iter().copied().chain(self.narrow.chosen.iter().map(widened))
    }

    /// Renumber the open documents of `node` and branch on them.
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
        // `enter` has reduced the node: every document is in two subsets at least.
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

/// The steps of one search, deducted from the budget too.
struct Steps<'a, 'b> {
    left: u64,
    budget: &'a mut Budget<'b>,
}

impl Steps<'_, '_> {
    fn spend(&mut self, steps: u64) -> bool {
        if self.left < steps {
            return false;
        }
        self.left -= steps;
        self.budget.spend(steps)
    }
}

/// A set of documents, one bit each.
trait Set:
    Copy + PartialEq + BitAnd<Output = Self> + BitOr<Output = Self> + BitXor<Output = Self> + Not<Output = Self>
{
    const NONE: Self;
    /// Whether a narrower integer may hold the open documents.
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

/// The open documents, and the subsets that remain for them.
struct Node<S> {
    open: S,
    waste: Waste,
    /// The range of the subsets in the stack's list.
    start: usize,
    end: usize,
    /// Documents in at least one of them, and in at least two.
    once: S,
    twice: S,
}

/// A node that is branched on.
struct Frame<S> {
    open: S,
    waste: Waste,
    /// From `start` to `rest`: the subsets without the document branched on. From there to `end`: those with it.
    start: usize,
    rest: usize,
    end: usize,
    /// The next subset to try.
    at: usize,
    /// Number of subsets chosen before.
    chosen: usize,
}

/// What a node leads to.
enum Next<S> {
    /// Every document is covered.
    Covered,
    /// A narrower integer holds the open documents.
    Narrow(Node<S>),
    /// The next branch is on top of the stack.
    Branch,
}

/// Why a stack stopped.
enum Stop<S> {
    OutOfSteps,
    Exhausted,
    Next(Next<S>),
}

/// The stack of a search, for sets of one width.
struct Stack<S> {
    /// The lists of all frames, one after the other, and the waste of each subset if any wastes something.
    sets: Vec<S>,
    wastes: Vec<Waste>,
    slack: bool,
    backwards: bool,
    frames: Vec<Frame<S>>,
    chosen: Vec<S>,
}

impl<S: Set> Stack<S> {
    fn new(slack: bool, backwards: bool) -> Self {
        Self { sets: Vec::new(), wastes: Vec::new(), slack, backwards, frames: Vec::new(), chosen: Vec::new() }
    }

    fn run(&mut self, steps: &mut Steps<'_, '_>) -> Stop<S> {
        while let Some(frame) = self.frames.last() {
            if frame.at == frame.end {
                self.frames.pop();
                continue;
            }
            let subsets = (frame.rest - frame.start) as u64;
            if !steps.spend(BRANCH + subsets + subsets / 4) {
                return Stop::OutOfSteps;
            }
            let Some(node) = self.child() else { continue };
            match self.enter(node) {
                Next::Branch => {}
                next => return Stop::Next(next),
            }
        }
        Stop::Exhausted
    }

    /// Choose the next subset of the last frame. Returns the resulting node, if every open document is in some subset.
    fn child(&mut self) -> Option<Node<S>> {
        let frame = self.frames.last_mut()?;
        let at = frame.at;
        frame.at += 1;
        let (start, rest, end) = (frame.start, frame.rest, frame.end);
        let chosen = self.sets[at];
        let open = frame.open & !chosen;
        let mut waste = frame.waste;
        self.chosen.truncate(frame.chosen);
        self.chosen.push(chosen);
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
                if set & chosen == S::NONE && wasted[0] <= waste[0] && wasted[1] <= waste[1] {
                    (room[to], waste_room[to]) = (set, wasted);
                    to += 1;
                    twice = twice | once & set;
                    once = once | set;
                }
            }
        } else {
            // Branch-free, because the outcome of the test is unpredictable.
            for &set in &lists[start..rest] {
                room[to] = set;
                let kept = set & chosen == S::NONE;
                to += usize::from(kept);
                let set = if kept { set } else { S::NONE };
                twice = twice | once & set;
                once = once | set;
            }
        }
        (open & !once == S::NONE).then_some(Node { open, waste, start: end, end: end + to, once, twice })
    }

    /// Choose the subsets that are the only ones of a document, then branch on a document in the fewest.
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

    /// Push a frame that tries the subsets of a document in the fewest.
    fn branch(&mut self, node: &Node<S>) {
        let sets = &mut self.sets[node.start..node.end];
        let fewest = rarest(node.open, sets);
        let document = if self.backwards { fewest.highest() } else { fewest.lowest() };
        // The subsets with it move behind the others, which are all that the children scan.
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

/// Add three integers bit by bit: sums and carries.
fn add<S: Set>(a: S, b: S, c: S) -> (S, S) {
    let half = a ^ b;
    (half ^ c, (a & b) | (half & c))
}

/// The documents of `open` in the fewest sets.
fn rarest<S: Set>(open: S, sets: &[S]) -> S {
    // All documents are counted in parallel: plane p holds bit p of each count. Eight sets are added before the carries
    // move on to higher planes (the bit count of Harley and Seal).
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
    use super::super::super::budget::Effort;
    use super::super::super::random::Random;
    use super::*;

    fn budget() -> Budget<'static> {
        Budget::new(&Effort { seconds: 10.0, interrupted: &|| false })
    }

    fn subsets(sets: &[u128], waste: Waste) -> Vec<Subset> {
        sets.iter().map(|&documents| Subset { documents, waste }).collect()
    }

    /// The status after `steps` steps, and the subsets of a cover.
    fn run(open: u128, subsets: &[Subset], waste: Waste, backwards: bool, steps: u64) -> (Status, Vec<u128>) {
        let mut search = ExactCover::new(open, subsets, waste, backwards);
        match search.run(steps, &mut budget()) {
            Status::Cover => (Status::Cover, search.chosen().collect()),
            status => (status, Vec::new()),
        }
    }

    #[test]
    fn a_cover_is_found_if_there_is_one_and_steps_suffice() {
        let sets = [0b0011, 0b0110, 0b1100, 0b1001, 0b0111, 0b1110];
        for backwards in [false, true] {
            let run = |waste, each, steps| run(0b1111, &subsets(&sets, each), waste, backwards, steps);
            let (status, chosen) = run([2, 2], [1, 1], 1_000);
            assert_eq!(status, Status::Cover);
            assert_eq!(chosen.iter().sum::<u128>(), 0b1111, "each document once");
            assert_eq!(run([0, 0], [0, 0], 1_000).0, Status::Cover);
            assert_eq!(run([2, 1], [1, 1], 1_000).0, Status::NoCover, "each of two subsets wastes one");
            assert_eq!(run([1, 2], [1, 1], 1_000).0, Status::NoCover);
            assert_eq!(run([2, 2], [1, 1], 5).0, Status::OutOfSteps, "a branch takes more steps");
        }
        assert_eq!(run(0b1111, &subsets(&[0b0111, 0b1110], [0, 0]), [9, 9], false, 1_000).0, Status::NoCover);
        assert_eq!(run(0, &[], [0, 0], false, 0).0, Status::Cover);
    }

    #[test]
    fn covers_by_random_subsets_of_three_are_found_at_all_widths() {
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
                    // Without a hidden cover the first document is in no set.
                    if set(&three).count_ones() == 3 && (hidden || !three.contains(&order[0])) {
                        sets.push(set(&three));
                    }
                }
                let open = (1 << documents) - 1;
                let waste = [slack[0] * documents / 3, slack[1] * documents / 3];
                let (status, chosen) = run(open, &subsets(&sets, slack), waste, false, 1 << 28);
                assert_eq!(status, if hidden { Status::Cover } else { Status::NoCover }, "{documents} {slack:?}");
                if hidden {
                    assert_eq!(chosen.len() as u32, documents / 3);
                    assert_eq!(chosen.iter().fold(0, |all, one| all | one), open);
                    assert!(chosen.iter().all(|one| sets.contains(one)));
                }
            }
        }
    }

    #[test]
    fn the_rarest_documents_are_in_the_fewest_sets() {
        let sets = [0b0111u128, 0b0110, 0b1011, 0b1110, 0b1001];
        // The counts of the documents are 3, 4, 3, 3.
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
