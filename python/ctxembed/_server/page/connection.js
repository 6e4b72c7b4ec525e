// Whether the server can be reached, and the state of a collection while it changes.

const FIRST_WAIT = 500; // milliseconds; doubled each time
const LONGEST_WAIT = 8_000;
const LASTED = 5_000;

/** Tells when the server goes away and when it is back: "lost" and "back". */
export class Connection extends EventTarget {
  isLost = false;
  #wake = () => {};

  constructor() {
    super();
    addEventListener("online", () => this.#wake());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.#wake(); });
  }

  /** Report that a request did not reach the server. It is then asked until it responds. */
  async lost() {
    if (this.isLost) return;
    this.isLost = true;
    this.dispatchEvent(new Event("lost"));
    for (let wait = FIRST_WAIT; ; wait = Math.min(2 * wait, LONGEST_WAIT)) {
      await this.#pause(wait);
      try {
        await fetch("/healthz", { cache: "no-store", credentials: "omit" }); // any response: it is there
        break;
      } catch {
        // Not yet.
      }
    }
    this.isLost = false;
    this.dispatchEvent(new Event("back"));
  }

  #pause(wait) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/**
 * Follows the state of one collection. "state" comes with what it is now, in `detail`.
 *
 * The stream is closed while the page is hidden: a browser has six connections to a server, for all its tabs.
 */
export class LiveState extends EventTarget {
  #stop = null;
  #name = "";

  constructor(api, connection) {
    super();
    this.api = api;
    this.connection = connection;
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#close();
      else this.#open();
    });
    connection.addEventListener("back", () => this.#open());
  }

  /** Follow another collection; "" for none. */
  follow(name) {
    if (name === this.#name) return;
    this.#close();
    this.#name = name;
    this.#open();
  }

  #close() {
    this.#stop?.abort();
    this.#stop = null;
  }

  async #open() {
    if (this.#stop || !this.#name || document.hidden) return;
    const stop = (this.#stop = new AbortController());
    const name = this.#name;
    const began = performance.now();
    const receive = (event, data) => {
      if (event === "state") this.dispatchEvent(new CustomEvent("state", { detail: { ...data, name } }));
    };
    try {
      await this.api.events(`/v1/collections/${encodeURIComponent(name)}/events`, receive, stop.signal);
    } catch (error) {
      if (stop.signal.aborted) return;
      this.#close();
      // Without a stream there are no live figures; another error than this one says so where it matters.
      // A stream that has lasted may end while the server is there, such as behind a proxy: the next attempt tells.
      if (!error.status && performance.now() - began > LASTED) this.#open();
      else if (!error.status) this.connection.lost();
      else if (error.status >= 500 || error.status === 429) setTimeout(() => this.#open(), LONGEST_WAIT);
    }
  }
}
