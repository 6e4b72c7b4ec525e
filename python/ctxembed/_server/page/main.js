// Starts the page: the address decides what is shown, and the views do the rest.

import { Api } from "./api.js";
import { CollectionView } from "./collection_view.js";
import { Connection, LiveState } from "./connection.js";
import { DocumentView } from "./document_view.js";
import { codeBlock, el, fill, message } from "./dom.js";
import { askForKey } from "./key.js";
import { listenToKeys } from "./keyboard.js";
import { SearchView } from "./search_view.js";
import { DEFAULTS, format, parse } from "./state.js";
import { plural } from "./text.js";

const VIEWS = { search: SearchView, document: DocumentView, collection: CollectionView };
const byId = (id) => document.getElementById(id);

class App {
  constructor() {
    this.api = new Api(askForKey);
    this.connection = new Connection();
    this.live = new LiveState(this.api, this.connection);
    this.collections = [];
    this.state = { ...DEFAULTS };
    this.view = null;
    this.main = byId("main");
    this.question = byId("question");
  }

  async start() {
    history.scrollRestoration = "manual"; // what is scrolled to is not there yet when Back is pressed
    addEventListener("popstate", () => this.show());
    document.addEventListener("click", (event) => this.#follow(event));
    this.#listenToQuestion();
    listenToKeys(this);
    this.connection.addEventListener("lost", () => this.#notice("The server does not respond. Trying again …"));
    this.connection.addEventListener("back", () => this.#back());
    this.live.addEventListener("state", ({ detail }) => this.#changed(detail));
    await this.load();
  }

  /** Read which collections there are, then show what the address says. */
  async load() {
    try {
      this.collections = (await this.api.get("/v1/collections")).data;
    } catch (error) {
      if (!error.status) this.connection.lost();
      else this.#fail(error);
      return;
    }
    this.show();
  }

  /** The collection that is shown; undefined if none is served. */
  get collection() {
    return this.collections.find(({ name }) => name === this.state.collection);
  }

  /** Show another state. `replace` keeps Back where it leads now. */
  go(changes, { replace = false } = {}) {
    const state = { ...this.state, ...changes };
    const address = format(state);
    if (address === location.hash) return;
    this.#keepPlace();
    if (replace) history.replaceState({ ...history.state }, "", address);
    else history.pushState({ from: this.state.view }, "", address);
    this.show({ moved: !replace });
  }

  /** Leave a document or the collection's page: to where one came from, if that was here. */
  leave() {
    if (history.state?.from === "search") history.back();
    else this.go({ view: "search", chunk: null, document: "" });
  }

  show({ moved = false } = {}) {
    const before = this.state;
    this.state = parse(location.hash);
    if (!this.collections.length) return this.#nothing();
    if (!this.state.collection) this.state.collection = this.collections[0].name;
    if (!this.collection) {
      fill(this.main, message("No such collection", `This server does not serve “${this.state.collection}”.`));
      this.view = null;
      return undefined;
    }
    if (document.activeElement !== this.question || this.state.query.trim() !== this.question.value.trim()) {
      this.question.value = this.state.query;
    }
    this.#header();
    this.live.follow(this.state.collection);
    const View = VIEWS[this.state.view];
    const same = this.view instanceof View && before.collection === this.state.collection;
    if (!same) {
      this.view?.close();
      this.view = new View(this);
      fill(this.main, this.view.element);
      document.body.dataset.view = this.state.view;
    }
    this.place = moved ? null : history.state?.place ?? null;
    if (moved && before.view !== this.state.view) scrollTo(0, 0);
    this.view.update();
    return undefined;
  }

  /** Scroll to where the person was when leaving this entry of the history. Views call it once they are filled. */
  restorePlace() {
    if (this.place === null) return;
    const { y, hit } = this.place;
    this.place = null;
    scrollTo(0, y);
    if (hit) this.main.querySelectorAll("[data-hit]")[hit - 1]?.focus({ preventScroll: true });
  }

  /** Say something to those who do not see the page. */
  announce(text) {
    byId("live").textContent = text;
  }

  /** Handle an error of a request. Returns the message to show, or null if there is nothing to show. */
  problem(error) {
    if (error.name === "AbortError") return null;
    if (!error.status) {
      console.info(error.message);
      this.connection.lost();
      return "The server went away. This goes on as soon as it is back.";
    }
    return error.message;
  }

  #keepPlace() {
    const hits = [...this.main.querySelectorAll("[data-hit]")];
    const place = { y: scrollY, hit: hits.indexOf(document.activeElement) + 1 };
    history.replaceState({ ...history.state, place }, "");
  }

  /** Links within the page are followed here, so that what was scrolled to is kept. */
  #follow(event) {
    const link = event.target.closest?.("a[href^='#']");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    const target = link.getAttribute("href");
    if (!target.startsWith("#/")) this.main.focus();
    else if (target === location.hash) this.view?.update();
    else this.go(parse(target));
  }

  #listenToQuestion() {
    let timer;
    let typed = false; // whether this spell of typing has its entry in the history
    const search = (replace) => {
      const query = this.question.value.trim();
      if (query === this.state.query || !this.collections.length) return;
      this.go({ query, chunk: this.state.view === "document" ? this.state.chunk : null }, { replace });
    };
    const later = (event) => {
      clearTimeout(timer);
      if (event.isComposing) return; // half a word of an input method
      // Where the API embeds queries each costs money: then only Enter searches.
      if (this.collection?.queries !== "embedder") return;
      timer = setTimeout(() => {
        search(typed);
        typed = true;
      }, 250);
    };
    this.question.addEventListener("input", later);
    this.question.addEventListener("compositionend", later);
    this.question.addEventListener("blur", () => { typed = false; });
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(timer);
      search(typed);
      typed = false;
      if (this.state.view === "collection") this.go({ view: "search" });
    });
  }

  #header() {
    const { collection } = this;
    const several = this.collections.length > 1;
    const box = byId("collection");
    box.hidden = !several;
    byId("collection-name").hidden = several;
    byId("collection-name").textContent = collection.name;
    fill(
      box,
      this.collections.map(({ name }) => el("option", { value: name, selected: name === collection.name }, name)),
    );
    box.onchange = () =>
      this.go(
        {
          ...DEFAULTS,
          collection: box.value,
          query: this.state.query,
          view: this.state.view === "collection" ? "collection" : "search",
        },
      );
    document.querySelector(".brand").href = format({ ...DEFAULTS, collection: several ? collection.name : "" });
    this.#figures();
    document.title = [
      this.state.view === "document" && this.state.document,
      this.state.query,
      collection.name,
      "ctxembed",
    ]
      .filter(Boolean).join(" · ");
  }

  #figures() {
    const { collection } = this;
    const link = byId("collection-link");
    link.href = format({ ...DEFAULTS, view: "collection", collection: collection.name, query: this.state.query });
    link.toggleAttribute("aria-current", this.state.view === "collection");
    fill(
      link,
      collection.writer && el("span", { class: "pulse", role: "img", "aria-label": "A job is writing" }),
      el("span", {}, plural(collection.documents, "document")),
      el("span", { class: "more" }, plural(collection.chunks, "chunk")),
    );
  }

  /** Take what the server says of the collection. The view hears of it if it has changed. */
  learn(found) {
    const { collection } = this;
    if (found.name !== collection?.name) return;
    const grew = found.documents !== collection.documents || found.chunks !== collection.chunks;
    const wrote = Boolean(found.writer) !== Boolean(collection.writer);
    Object.assign(collection, found);
    this.#figures();
    if (grew || wrote) this.view?.changed?.(grew);
  }

  /** The live state of a collection came. */
  #changed({ name, requests, total_tokens, cost_usd, ...sizes }) {
    const usage = { ...this.collection?.usage, requests, total_tokens, cost_usd };
    this.learn({ name, usage, ...sizes });
  }

  async #back() {
    this.#notice("");
    this.announce("The server is back");
    if (this.collections.length) this.view?.retry?.();
    const empty = !this.collections.length;
    try {
      this.collections = (await this.api.get("/v1/collections")).data;
    } catch (error) {
      if (!error.status) this.connection.lost();
      return;
    }
    if (empty || !this.collection) this.show();
    else this.#figures();
  }

  #notice(text) {
    const notice = byId("notice");
    notice.textContent = text;
    notice.hidden = !text;
  }

  #fail(error) {
    fill(
      this.main,
      message(
        "This did not work",
        error.message,
        el("button", { type: "button", onclick: () => this.load() }, "Try again"),
      ),
    );
  }

  #nothing() {
    fill(
      this.main,
      message(
        "No collection is served",
        "Start the server with one:",
        codeBlock("ctxembed serve --collection corpus.ctx"),
      ),
    );
  }
}

new App().start();
