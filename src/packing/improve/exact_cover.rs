//! Exact cover: subsets such that every document is in exactly one of them.
//!
//! A depth-first search that branches on the document in the fewest subsets (Knuth, "Dancing links", Millennial
//! Perspectives in Computer Science, 2000). A subset is an integer of one bit a document, so a branch is one pass over the
//! list of subsets: it keeps those disjoint from the chosen ones, and finds the documents that are in none or one of them.

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
    /// The lists of all frames, one after the other, and the waste of each subset if any wastes something.
    sets: Vec<u128>,
    wastes: Vec<Waste>,
    slack: bool,
    backwards: bool,
    frames: Vec<Frame>,
    chosen: Vec<u128>,
    is_covered: bool,
}

impl ExactCover {
    /// Cover the documents `open` by some of `subsets`, which hold no others and may waste `waste` in sum.
    ///
    /// Of documents in equally few subsets the search branches on the first, or on the last if `backwards`.
    pub(super) fn new(open: u128, subsets: &[Subset], waste: Waste, backwards: bool) -> Self {
        let slack = subsets.iter().any(|subset| subset.waste != [0, 0]);
        let sets: Vec<u128> = subsets.iter().map(|subset| subset.documents).collect();
        let wastes = if slack { subsets.iter().map(|subset| subset.waste).collect() } else { Vec::new() };
        let (once, twice) = sets.iter().fold((0, 0), |(once, twice), &set| (once | set, twice | (once & set)));
        let end = sets.len();
        let mut this =
            Self { sets, wastes, slack, backwards, frames: Vec::new(), chosen: Vec::new(), is_covered: false };
        this.is_covered = this.enter(Node { open, waste, start: 0, end, once, twice });
        this
    }

    /// Search for about `steps` steps.
    pub(super) fn run(&mut self, mut steps: u64, budget: &mut Budget<'_>) -> Status {
        while !self.is_covered {
            let Some(frame) = self.frames.last() else { return Status::NoCover };
            if frame.at == frame.end {
                self.frames.pop();
                continue;
            }
            let subsets = (frame.rest - frame.start) as u64;
            let cost = BRANCH + subsets + subsets / 4;
            if steps < cost || !budget.spend(cost) {
                return Status::OutOfSteps;
            }
            steps -= cost;
            if let Some(node) = self.child() {
                self.is_covered = self.enter(node);
            }
        }
        Status::Cover
    }

    /// The subsets of the cover that was found.
    pub(super) fn chosen(&self) -> impl Iterator<Item = u128> + '_ {
        self.chosen.iter().copied()
    }

    /// Choose the next subset of the last frame. Returns the resulting node, if every open document is in some subset.
    fn child(&mut self) -> Option<Node> {
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
            self.sets.resize(end + rest - start, 0);
        }
        let (lists, room) = self.sets.split_at_mut(end);
        let (mut once, mut twice) = (0, 0);
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
                if set & chosen == 0 && wasted[0] <= waste[0] && wasted[1] <= waste[1] {
                    (room[to], waste_room[to]) = (set, wasted);
                    to += 1;
                    twice |= once & set;
                    once |= set;
                }
            }
        } else {
            // Branch-free, because the outcome of the test is unpredictable.
            for &set in &lists[start..rest] {
                room[to] = set;
                let kept = set & chosen == 0;
                to += usize::from(kept);
                let set = if kept { set } else { 0 };
                twice |= once & set;
                once |= set;
            }
        }
        (open & !once == 0).then_some(Node { open, waste, start: end, end: end + to, once, twice })
    }

    /// Choose the subsets that are the only ones of a document, then branch on a document in the fewest. True if all
    /// documents are covered.
    fn enter(&mut self, mut node: Node) -> bool {
        while node.open != 0 {
            if node.open & !node.once != 0 {
                return false;
            }
            let single = node.open & !node.twice;
            if single == 0 {
                self.branch(&node);
                return false;
            }
            let mut taken = 0;
            for at in node.start..node.end {
                let set = self.sets[at];
                if set & single == 0 {
                    continue;
                }
                if set & taken != 0 || (self.slack && !spend(&mut node.waste, self.wastes[at])) {
                    return false;
                }
                taken |= set;
                self.chosen.push(set);
            }
            node.open &= !taken;
            (node.once, node.twice) = (0, 0);
            let mut to = node.start;
            for at in node.start..node.end {
                let set = self.sets[at];
                let fits = |wasted: Waste| wasted[0] <= node.waste[0] && wasted[1] <= node.waste[1];
                if set & taken != 0 || (self.slack && !fits(self.wastes[at])) {
                    continue;
                }
                self.sets[to] = set;
                if self.slack {
                    self.wastes[to] = self.wastes[at];
                }
                to += 1;
                node.twice |= node.once & set;
                node.once |= set;
            }
            node.end = to;
        }
        true
    }

    /// Push a frame that tries the subsets of a document in the fewest.
    fn branch(&mut self, node: &Node) {
        let sets = &mut self.sets[node.start..node.end];
        let fewest = rarest(node.open, sets);
        let document = if self.backwards { 1 << fewest.ilog2() } else { fewest & fewest.wrapping_neg() };
        // The subsets with it move behind the others, which are all that the children scan.
        let (mut at, mut rest) = (0, sets.len());
        while at < rest {
            if sets[at] & document == 0 {
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

/// The open documents, and the subsets that remain for them.
struct Node {
    open: u128,
    waste: Waste,
    /// The range of the subsets in the lists.
    start: usize,
    end: usize,
    /// Documents in at least one of them, and in at least two.
    once: u128,
    twice: u128,
}

/// A node that is branched on.
struct Frame {
    open: u128,
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

/// Take `spent` from `left` if there is enough.
fn spend(left: &mut Waste, spent: Waste) -> bool {
    let enough = spent[0] <= left[0] && spent[1] <= left[1];
    if enough {
        *left = [left[0] - spent[0], left[1] - spent[1]];
    }
    enough
}

/// Add three integers bit by bit: sums and carries.
fn add(a: u128, b: u128, c: u128) -> (u128, u128) {
    let half = a ^ b;
    (half ^ c, (a & b) | (half & c))
}

/// The documents of `open` in the fewest sets.
fn rarest(open: u128, sets: &[u128]) -> u128 {
    // All documents are counted in parallel: plane p holds bit p of each count. Eight sets are added before the carries
    // move on to higher planes (the bit count of Harley and Seal).
    let mut planes = [0; PLANES];
    let (mut ones, mut twos, mut fours) = (0, 0, 0);
    let mut count = |eight: &[u128; 8]| {
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
            if carry == 0 {
                break;
            }
            (*plane, carry) = (*plane ^ carry, *plane & carry);
        }
    };
    let (eights, rest) = sets.as_chunks();
    for eight in eights {
        count(eight);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    count(&last);
    planes[..3].copy_from_slice(&[ones, twos, fours]);
    let bits = usize::BITS - sets.len().leading_zeros();
    let mut rarest = open;
    for &plane in planes[..(bits as usize).min(PLANES)].iter().rev() {
        if rarest & !plane != 0 {
            rarest &= !plane;
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
    fn covers_by_random_subsets_of_three_are_found() {
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
            let sets: Vec<u128> = (0..count).map(|_| u128::from(random.below(1 << 20))).collect();
            let of = |document: u32| sets.iter().filter(|&&set| set >> document & 1 == 1).count();
            let fewest = (0..20).map(of).min();
            let wanted = (0..20).filter(|&document| Some(of(document)) == fewest).fold(0, |all, one| all | 1 << one);
            assert_eq!(rarest((1 << 20) - 1, &sets), wanted);
        }
    }
}
