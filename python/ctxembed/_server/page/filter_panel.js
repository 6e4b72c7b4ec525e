// Filters that are offered from what a collection holds.

import { el, fill } from "./dom.js";
import { count } from "./text.js";
import { shown } from "./where.js";

const VALUES = 6; // shown at once
const FIELDS = 8; // open at once
const MOST = 20; // values of a field that the server sends

export class FilterPanel {
  #fields = [];
  #unfolded = new Set(); // fields with all their values
  #controls = []; // functions that show the filters of a state in a control

  constructor(app) {
    this.app = app;
    this.content = el("div", { class: "fields" });
    this.error = el("p", { class: "error", id: "filter-error", role: "alert", hidden: true });
    this.expression = el("input", {
      type: "text",
      id: "expression",
      spellcheck: "false",
      autocapitalize: "off",
      placeholder: "year >= 2020 AND lang = 'en'",
      "aria-describedby": "filter-error",
      onchange: () => app.go({ expression: this.expression.value.trim() }),
      onkeydown: (event) => { if (event.key === "Enter") app.go({ expression: this.expression.value.trim() }); },
    });
    this.title = el("summary", {}, "Filters");
    this.element = el(
      "aside",
      { class: "filters", "aria-label": "Filters" },
      (this.fold = el(
        "details",
        {},
        this.title,
        this.content,
        el(
          "fieldset",
          { class: "field" },
          el("legend", {}, el("label", { for: "expression" }, "Expression")),
          this.expression,
          this.error,
        ),
      )),
    );
    // Beside the hits where there is room, folded above them where there is none.
    const wide = matchMedia("(min-width: 800px)");
    const follow = () => { this.fold.open = wide.matches; };
    wide.addEventListener("change", follow);
    follow();
  }

  setFields(fields, sampled) {
    // What is quickest to use comes first: a few values, then ranges, then texts.
    const effort = (field) => (isNumeric(field) && field.distinct > VALUES ? 1 : field.distinct > MOST ? 2 : 0);
    this.#fields = fields.toSorted((a, b) => effort(a) - effort(b));
    this.sampled = sampled;
    this.#build();
  }

  get isEmpty() {
    return !this.#fields.length;
  }

  setError(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
    this.expression.toggleAttribute("aria-invalid", Boolean(text));
    if (text) this.fold.open = true;
  }

  /** Show what the state says, in the controls that there are: a new one would lose the focus that is on its way. */
  update() {
    const { filters, expression } = this.app.state;
    if (document.activeElement !== this.expression) this.expression.value = expression;
    const used = Object.keys(filters).length + (expression ? 1 : 0);
    fill(this.title, "Filters", used > 0 && el("span", { class: "badge" }, used));
    for (const show of this.#controls) show(filters);
    // A chosen value that has no box needs one: else nobody could remove it.
    const chosen = this.#fields.reduce((sum, { name }) => sum + (filters[name]?.in?.length ?? 0), 0);
    if (this.content.querySelectorAll("input:checked").length < chosen) this.#build();
  }

  #build() {
    const { filters } = this.app.state;
    const focused = this.content.contains(document.activeElement) ? document.activeElement.dataset.control : null;
    this.#controls = [];
    const groups = this.#fields
      .filter((field) => offered(field, this.app.collection.documents))
      .map((field) => this.#field(field, filters[field.name] ?? {}));
    const rest = groups.slice(FIELDS);
    fill(
      this.content,
      groups.slice(0, FIELDS),
      rest.length > 0 && el(
        "details",
        { class: "rest", open: this.#fields.slice(FIELDS).some(({ name }) => filters[name]) },
        el("summary", {}, `${rest.length} more fields`),
        rest,
      ),
      this.sampled && el("p", { class: "muted hint" }, "Counts are of a sample of the documents."),
    );
    for (const show of this.#controls) show(filters);
    const controls = [...this.content.querySelectorAll("[data-control]")];
    if (focused) controls.find(({ dataset }) => dataset.control === focused)?.focus();
  }

  #set(name, changes) {
    const { filters } = this.app.state;
    const { [name]: before = {}, ...others } = filters;
    const filter = Object.fromEntries(
      Object.entries({ ...before, ...changes }).filter(([, value]) => value !== undefined),
    );
    this.app.go({ filters: Object.keys(filter).length ? { ...others, [name]: filter } : others });
  }

  #field(field, filter) {
    const parts = [];
    if (isNumeric(field) && field.distinct > VALUES) parts.push(this.#range(field));
    else {
      // Long texts are not among the values: then these are few, or none.
      const isText = field.distinct > MOST || !field.values.length;
      if (isText && field.types.includes("str")) parts.push(this.#text(field));
      // Of texts that hardly any two documents share, a list of some is no help.
      const common = field.values.length > 0 && 50 * field.values[0].documents >= field.documents;
      if (!isText || common || filter.in) parts.push(this.#values(field, filter));
    }
    return el("fieldset", { class: "field" }, el("legend", { dir: "auto" }, field.name), parts);
  }

  #range(field) {
    const input = (end, label, placeholder) => {
      const box = el("input", {
        type: "number",
        step: field.types.includes("float") ? "any" : 1,
        placeholder,
        "aria-label": `${field.name} ${label}`,
        "data-control": `${field.name} ${end}`,
        onchange: () => {
          const given = box.value !== "" && box.checkValidity();
          this.#set(field.name, { [end]: given ? Number(box.value) : undefined });
        },
      });
      this.#controls.push(
        (filters) => { if (document.activeElement !== box) box.value = filters[field.name]?.[end] ?? ""; },
      );
      return box;
    };
    return el(
      "div",
      { class: "range" },
      input("min", "from", field.minimum),
      el("span", { class: "muted" }, "to"),
      input("max", "to", field.maximum),
    );
  }

  #text(field) {
    const box = el("input", {
      type: "text",
      placeholder: "contains",
      "aria-label": `${field.name} contains`,
      "data-control": `${field.name} has`,
      onchange: () => this.#set(field.name, { has: box.value || undefined }),
    });
    this.#controls.push(
      (filters) => { if (document.activeElement !== box) box.value = filters[field.name]?.has ?? ""; },
    );
    return box;
  }

  #values(field, filter) {
    const chosen = filter.in ?? [];
    // What is chosen is shown, too, where the collection no longer has it: else nobody could remove it.
    const choices = [...field.values];
    const without = this.app.collection.documents - field.documents;
    if (!this.sampled && without > 0) choices.push({ value: null, documents: without });
    const known = choices.map(({ value }) => value);
    const values = [
      ...choices,
      ...chosen.filter((value) => !known.includes(value)).map((value) => ({ value, documents: 0 })),
    ];
    const all = this.#unfolded.has(field.name);
    const visible = values.filter(({ value }, place) => all || place < VALUES || chosen.includes(value));
    const rows = visible.map(({ value, documents }) => {
      const box = el("input", {
        type: "checkbox",
        "data-control": `${field.name} = ${JSON.stringify(value)}`,
        onchange: () => {
          const others = (this.app.state.filters[field.name]?.in ?? []).filter((one) => one !== value);
          const left = box.checked ? [...others, value] : others;
          this.#set(field.name, { in: left.length ? left : undefined });
        },
      });
      this.#controls.push((filters) => { box.checked = filters[field.name]?.in?.includes(value) ?? false; });
      return el(
        "label",
        { class: "value" },
        box,
        el("span", { class: "name", dir: "auto", title: shown(value) }, shown(value)),
        el("span", { class: "count" }, count(documents)),
      );
    });
    const hidden = values.length - visible.length;
    const unfold = () => {
      if (all) this.#unfolded.delete(field.name);
      else this.#unfolded.add(field.name);
      this.#build();
    };
    return [
      rows,
      (hidden > 0 || (all && values.length > VALUES)) &&
        el(
          "button",
          { type: "button", class: "quiet", "data-control": `${field.name} more`, onclick: unfold },
          all ? "Fewer" : `${hidden} more`,
        ),
    ];
  }
}

const isNumeric = ({ types }) => types.length > 0 && types.every((type) => type === "int" || type === "float");

/** What all documents have alike filters nothing. */
function offered({ distinct, documents }, all) {
  return distinct > 1 || documents < all;
}
