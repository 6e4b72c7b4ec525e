// Requests to the server's endpoints: the key, errors with what the server says, and the stream of events.

const KEY = "ctxembed.key"; // in sessionStorage: this tab alone, until it is closed
const SILENCE = 45_000; // milliseconds; the server writes at least every 15 seconds

/** A response other than 2xx. */
export class ApiError extends Error {
  constructor(status, message, problems, retryAfter) {
    super(message);
    this.status = status;
    this.problems = problems;
    this.retryAfter = retryAfter;
  }

  /** The message about a field of the body, or null. */
  about(...fields) {
    return this.problems.find(({ loc }) => loc.some((part) => fields.includes(part)))?.msg ?? null;
  }
}

/** The server could not be reached, or went away meanwhile. */
export class UnreachableError extends Error {}

export class Api {
  /** @param {(wrong: boolean) => Promise<string>} askForKey Called when the server wants another key. */
  constructor(askForKey) {
    this.askForKey = askForKey;
    this.asking = null;
    this.key = read();
  }

  get(path, { signal } = {}) {
    return this.json(path, { signal });
  }

  post(path, body, { signal } = {}) {
    const headers = { "content-type": "application/json" };
    return this.json(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  }

  async json(path, options) {
    const response = await this.request(path, options);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new UnreachableError("The response ended early");
    }
  }

  /** Return a response with status 2xx. Asks for the key as often as the server does not accept it. */
  async request(path, options = {}) {
    for (;;) {
      const key = this.key;
      const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
      let response;
      try {
        response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
      } catch (error) {
        if (error.name === "AbortError") throw error;
        throw new UnreachableError(error.message);
      }
      if (response.ok) return response;
      if (response.status !== 401) throw await errorOf(response);
      // Many requests may meet a 401 at once: one question for all of them, and none for a key that was changed.
      if (this.key !== key) continue;
      this.asking ??= this.askForKey(Boolean(key)).finally(() => { this.asking = null; });
      this.setKey(await this.asking);
    }
  }

  setKey(key) {
    this.key = key;
    try {
      if (key) sessionStorage.setItem(KEY, key);
      else sessionStorage.removeItem(KEY);
    } catch {
      // Storage may be switched off; then the key is kept until the page is left.
    }
  }

  /**
   * Read a stream of server-sent events until it ends. EventSource could send no key.
   *
   * @param {(name: string, data: Object) => void} receive
   */
  async events(path, receive, signal) {
    const silent = new AbortController();
    const response = await this.request(path, { signal: AbortSignal.any([signal, silent.signal]) });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let timer;
    let buffer = "";
    try {
      for (;;) {
        timer = setTimeout(() => silent.abort(), SILENCE);
        const { value, done } = await reader.read();
        clearTimeout(timer);
        if (done) throw new UnreachableError("The stream ended");
        buffer += value;
        const blocks = buffer.split(/\r?\n\r?\n/);
        buffer = blocks.pop();
        for (const block of blocks) dispatch(block, receive);
      }
    } catch (error) {
      if (signal.aborted) throw error;
      throw new UnreachableError(error.message);
    } finally {
      clearTimeout(timer);
    }
  }
}

function dispatch(block, receive) {
  let name = "message";
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (field === "event") name = value;
    else if (field === "data") data.push(value);
  }
  if (data.length) receive(name, JSON.parse(data.join("\n")));
}

function read() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

async function errorOf(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    // A proxy's page, or nothing: the status says what there is to say.
  }
  const problems = Array.isArray(body?.detail) ? body.detail.filter((one) => Array.isArray(one?.loc)) : [];
  const message =
    problems.map(({ msg }) => msg).join("; ") ||
    (typeof body?.detail === "string" && body.detail) ||
    body?.error?.message ||
    body?.detail?.message ||
    `The server responded with status ${response.status}`;
  const wait = Number(response.headers.get("retry-after"));
  return new ApiError(response.status, message, problems, Number.isFinite(wait) && wait > 0 ? wait : null);
}
