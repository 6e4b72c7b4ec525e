// Elements are built here, and only here. Texts become text nodes: nothing of a collection is ever parsed as markup.

/**
 * Create an element.
 *
 * @param {string} tag
 * @param {Object} properties Attributes. A function named on... listens; true sets an empty attribute; false, null and
 *     undefined set none.
 * @param {...(Node|string|number|null|false|Array)} children
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

/** Replace the content of an element. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** A button that copies a text, and says so. */
export function copyButton(text, label = "Copy") {
  const button = el("button", { type: "button", class: "quiet copy" }, label);
  button.addEventListener("click", async () => {
    const value = typeof text === "function" ? text() : text;
    try {
      await navigator.clipboard.writeText(value);
      button.textContent = "Copied";
    } catch {
      // Browsers offer no clipboard to pages over plain http from another machine.
      const code = button.parentElement.querySelector("code");
      if (code) getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = label; }, 1600);
  });
  return button;
}

/** A block of code with a button that copies it. */
export function codeBlock(text) {
  return el("div", { class: "code" }, el("pre", { tabindex: 0 }, el("code", {}, text)), copyButton(text));
}

/** A <select> of [value, label] pairs. */
export function select(label, pairs, value, onchange) {
  const box = el(
    "select",
    { "aria-label": label, onchange: () => onchange(box.value) },
    pairs.map(([one, name]) => el("option", { value: one, selected: String(one) === String(value) }, name)),
  );
  return box;
}

/** A message in place of content. */
export function message(title, ...content) {
  const parts = content.filter(Boolean).map((part) => (typeof part === "string" ? el("p", {}, part) : part));
  return el("section", { class: "message" }, el("h2", {}, title), parts);
}
