//! Results of several indexes as one, as if an index had held all their rows.

use super::order::{Candidate, Order};
use crate::error::Error;
use crate::memory::vector;

/// Candidates of several queries, with their cosines where rows are ranked by them.
#[derive(Clone, Debug, Default)]
pub struct Ranked {
    /// Query `i` has the candidates `offsets[i]..offsets[i + 1]`.
    pub offsets: Vec<usize>,
    /// Candidates of all queries.
    pub candidates: Vec<Candidate>,
    /// The cosine of each candidate, or nothing.
    pub cosines: Vec<f32>,
}

/// The best `limit` candidates of each query in the order `O`, of all parts together.
///
/// Every part has the same number of queries, at least one. An id that two candidates of a query share is an error: no
/// single index has it twice.
pub fn merge<O: Order>(parts: &[Ranked], limit: usize) -> Result<Ranked, Error> {
    let queries = parts.iter().map(|part| part.offsets.len() - 1).min().unwrap_or_default();
    let mut merged = Ranked { offsets: vector(queries + 1)?, ..Ranked::default() };
    merged.offsets.push(0);
    let (mut all, mut ids) = (vec![], vec![]);
    for query in 0..queries {
        all.clear();
        for (number, part) in parts.iter().enumerate() {
            let rows = part.offsets[query]..part.offsets[query + 1];
            all.try_reserve(rows.len())?;
            all.extend(rows.map(|row| (part.candidates[row], number, row)));
        }
        ids.clear();
        ids.try_reserve(all.len())?;
        ids.extend(all.iter().map(|&(candidate, number, _)| (candidate.id, number)));
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let ((id, first), (_, second)) = (pair[0], pair[1]);
            return Err(Error::Value(format!(
                "ids must be unique over all parts: part {first} and part {second} both have the id {id}"
            )));
        }
        let order = |a: &(Candidate, usize, usize), b: &(Candidate, usize, usize)| O::compare(&a.0, &b.0);
        if limit > 0 && limit < all.len() {
            all.select_nth_unstable_by(limit - 1, order);
            all.truncate(limit);
        }
        all.sort_unstable_by(order);
        merged.candidates.try_reserve(all.len())?;
        merged.candidates.extend(all.iter().map(|&(candidate, ..)| candidate));
        merged.cosines.try_reserve(all.len())?;
        merged.cosines.extend(all.iter().filter_map(|&(_, number, row)| parts[number].cosines.get(row).copied()));
        merged.offsets.push(merged.candidates.len());
    }
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::order::{ByCosine, ByHamming, ByProduct};
    use super::*;

    fn check<O: Order>(rows: &[(i32, u32, usize)], parts: usize, limit: usize) {
        let all: Vec<Candidate> = rows
            .iter()
            .enumerate()
            .map(|(id, &(score, norm, _))| Candidate {
                score,
                norm: if O::USES_NORMS { norm } else { 0 },
                id: id as i64,
            })
            .collect();
        let mut lists = vec![Ranked { offsets: vec![0], ..Ranked::default() }; parts];
        for (row, &candidate) in all.iter().enumerate() {
            let part = &mut lists[rows[row].2 % parts];
            part.candidates.push(candidate);
            part.cosines.push(row as f32);
        }
        for part in &mut lists {
            part.offsets.push(part.candidates.len());
        }
        let mut expected = all;
        expected.sort_by(O::compare);
        expected.truncate(limit);
        let merged = merge::<O>(&lists, limit).expect("unique ids");
        assert_eq!(merged.candidates, expected);
        assert_eq!(merged.offsets, [0, expected.len()]);
        let cosines: Vec<f32> = expected.iter().map(|candidate| candidate.id as f32).collect();
        assert_eq!(merged.cosines, cosines);
    }

    proptest! {
        #[test]
        fn merged_parts_are_the_best_of_all(
            rows in prop::collection::vec((-9i32..9, 1u32..9, 0usize..5), 0..200),
            parts in 1usize..5,
            limit in 1usize..300,
        ) {
            check::<ByHamming>(&rows, parts, limit);
            check::<ByProduct>(&rows, parts, limit);
            check::<ByCosine>(&rows, parts, limit);
        }
    }

    #[test]
    fn an_id_in_two_parts_is_an_error() {
        let part = |id| Ranked {
            offsets: vec![0, 1],
            candidates: vec![Candidate { score: id, norm: 0, id: 7 }],
            cosines: vec![],
        };
        let error = merge::<ByProduct>(&[part(1), part(2)], 1).expect_err("7 is in both");
        assert!(error.to_string().contains("part 0 and part 1 both have the id 7"), "{error}");
    }
}
