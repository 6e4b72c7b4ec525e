// Numbers and positions as people read them.

const WHOLE = new Intl.NumberFormat("en");
const PAIR = /[\ud800-\udbff][\udc00-\udfff]/;

export const count = (value) => WHOLE.format(value);
export const plural = (value, one, many = `${one}s`) => `${count(value)} ${value === 1 ? one : many}`;
export const score = (value) => value.toFixed(3);

export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(2)} s`;
  return `${value >= 10 ? Math.round(value) : value.toFixed(1)} ms`;
}

export function bytes(value) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

/** An amount that the API sent as a decimal text. Small amounts keep two digits that say something. */
export function dollars(text) {
  const value = Number(text);
  if (!Number.isFinite(value)) return `$${text}`;
  if (value === 0) return "$0";
  return `$${value >= 1 ? value.toFixed(2) : value.toPrecision(2).includes("e") ? text : Number(value.toPrecision(2))}`;
}

export function moment(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return String(iso);
  return date.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** The index in a JavaScript string of a position that counts characters, as Python does: 😀 is one, not two. */
export function position(text, characters) {
  if (!PAIR.test(text)) return Math.min(characters, text.length);
  let at = 0;
  for (; characters > 0 && at < text.length; characters -= 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return at;
}

/** The parts of a passage before, of and after a chunk that begins at ``offset`` characters. */
export function around(passage, offset, chunk) {
  const start = position(passage, offset);
  return [passage.slice(0, start), passage.slice(start, start + chunk.length), passage.slice(start + chunk.length)];
}

/** The last ``most`` characters of a text, from the beginning of a word. */
export function tail(text, most) {
  if (text.length <= most) return text;
  const cut = text.slice(-most);
  const space = cut.search(/\s/);
  return `… ${space < 0 ? cut : cut.slice(space + 1)}`;
}

/** The first ``most`` characters of a text, to the end of a word. */
export function head(text, most) {
  if (text.length <= most) return text;
  const cut = text.slice(0, most);
  const space = cut.search(/\s\S*$/);
  return `${space < most / 2 ? cut : cut.slice(0, space)} …`;
}
