// Filters as the `where` and `params` of a search. Values are parameters; only names of fields are part of the
// expression, quoted as SQL quotes identifiers.

const quoted = (name) => `"${name.replaceAll('"', '""')}"`;
const escaped = (text) => text.replace(/[\\%_]/g, "\\$&");

/**
 * Build an expression.
 *
 * @param {Object} filters By field: {in: [values]}, {min, max}, {has: text}, which must all hold.
 * @param {string} expression An expression that the person wrote, or "".
 * @returns {{where?: string, params?: Array}}
 */
export function whereOf(filters, expression) {
  const conditions = [];
  const params = [];
  for (const [name, filter] of Object.entries(filters)) {
    const field = quoted(name);
    if (filter.in) {
      const values = filter.in.filter((value) => value !== null);
      const either = [];
      if (values.length) either.push(`${field} IN (${values.map(() => "?").join(", ")})`);
      if (values.length < filter.in.length) either.push(`${field} IS NULL`);
      conditions.push(either.length > 1 ? `(${either.join(" OR ")})` : either[0]);
      params.push(...values);
    }
    if (filter.min !== undefined) {
      conditions.push(`${field} >= ?`);
      params.push(filter.min);
    }
    if (filter.max !== undefined) {
      conditions.push(`${field} <= ?`);
      params.push(filter.max);
    }
    if (filter.has !== undefined) {
      conditions.push(`${field} LIKE ? ESCAPE '\\'`);
      params.push(`%${escaped(filter.has)}%`);
    }
  }
  // First: its messages then name what the person wrote, and a stray ? in it cannot take another's value unnoticed.
  if (expression.trim()) conditions.unshift(conditions.length ? `(${expression.trim()})` : expression.trim());
  if (!conditions.length) return {};
  return { where: conditions.join(" AND "), params };
}

/** Filters in words, one for each that can be removed: [field, part, text]. */
export function filterWords(filters) {
  const words = [];
  for (const [name, filter] of Object.entries(filters)) {
    if (filter.in) words.push([name, ["in"], `${name}: ${filter.in.map(shown).join(", ")}`]);
    if (filter.min !== undefined && filter.max !== undefined) {
      words.push([name, ["min", "max"], `${name}: ${filter.min} to ${filter.max}`]);
    } else if (filter.min !== undefined) words.push([name, ["min"], `${name}: from ${filter.min}`]);
    else if (filter.max !== undefined) words.push([name, ["max"], `${name}: to ${filter.max}`]);
    if (filter.has !== undefined) words.push([name, ["has"], `${name}: contains “${filter.has}”`]);
  }
  return words;
}

/** A metadata value as text. */
export function shown(value) {
  if (value === null || value === undefined) return "none";
  if (value === "") return "empty";
  if (value === true) return "yes";
  if (value === false) return "no";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
