// The ways to rank, and how two rankings differ.

export const MODES = {
  exact: { label: "Exact", about: "Compares the question with every vector.", body: {} },
  "two-stage": {
    label: "Two-stage",
    about: "The signs of the vectors choose candidates, and their full values rank them.",
    body: { stage: "two-stage" },
  },
  bits: {
    label: "Bits",
    about: "The signs of the vectors alone choose the hits; their full values only order them.",
    body: { stage: "two-stage", oversample: 1 },
  },
  hybrid: {
    label: "Hybrid",
    about: "Words (BM25) and vectors together, fused by reciprocal rank.",
    body: { hybrid: true },
  },
};

/** Why a way to rank is not there for a collection; null if it is. */
export function missing(name, collection) {
  if ((name === "two-stage" || name === "bits") && !collection.two_stage) {
    return "This collection has no second stage.";
  }
  if (name === "hybrid" && !collection.hybrid) {
    return collection.stores_text
      ? "The server lacks the extra: pip install 'ctxembed[hybrid]'"
      : "This collection stores no text, so its words cannot be searched.";
  }
  return null;
}

export const hitKey = (hit) => `${hit.chunk} ${hit.document}`;

/**
 * Compare hits with those of a reference ranking.
 *
 * @returns {{places: Array<number|null>, lost: Array<{hit, place}>, shared: number}} For each hit its place in the
 *     reference, from 0, or null; the reference's hits that are not among the hits; how many both have.
 */
export function compare(reference, hits) {
  const places = new Map(reference.map((hit, place) => [hitKey(hit), place]));
  const own = new Set(hits.map(hitKey));
  const found = hits.map((hit) => places.get(hitKey(hit)) ?? null);
  return {
    places: found,
    lost: reference.map((hit, place) => ({ hit, place })).filter(({ hit }) => !own.has(hitKey(hit))),
    shared: found.filter((place) => place !== null).length,
  };
}
