// Keys of the whole page. A focused hit is a link, so Enter and a new tab work as everywhere.

const EDITABLE = "input, select, textarea, [contenteditable]";

export function listenToKeys(app) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    const focused = document.activeElement;
    const typing = focused?.matches(EDITABLE) && !focused.matches("[type=checkbox]");
    if (event.key === "Escape") escape(app, event, focused, typing);
    else if (typing && !(focused === app.question && event.key === "ArrowDown")) return;
    else if (event.key === "/") {
      app.question.focus();
      app.question.select();
    } else if (!moves(app, event, focused)) return;
    else if (event.defaultPrevented) return;
    event.preventDefault();
  });
}

function escape(app, event, focused, typing) {
  if (typing && focused !== app.question) focused.blur();
  else if (app.state.view !== "search") app.leave();
  else if (focused === app.question) app.question.blur();
  else app.question.focus();
}

/** Move among hits or chunks. Returns whether the key did. */
function moves(app, event, focused) {
  if (app.view?.key?.(event)) return true;
  const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
  const aside = { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1 }[event.key];
  if (step === undefined && aside === undefined) return false;
  const lists = [...app.main.querySelectorAll("[data-hits]")].map((list) => [...list.querySelectorAll("[data-hit]")]);
  const column = lists.findIndex((list) => list.includes(focused));
  if (column < 0) {
    // Arrows work in controls until a hit has the focus. j enters, and so does the arrow down of the question.
    const isFree = [app.question, document.body, app.main].includes(focused);
    const enters = event.key === "j" || (event.key === "ArrowDown" && isFree);
    const first = lists.find((list) => list.length)?.[0];
    if (!enters || !first) return false;
    focus(first);
    return true;
  }
  const place = lists[column].indexOf(focused);
  if (step !== undefined) {
    if (place + step < 0) app.question.focus();
    else focus(lists[column][Math.min(place + step, lists[column].length - 1)]);
    return true;
  }
  const beside = lists[column + aside];
  if (!beside?.length) return lists.length > 1;
  focus(beside[Math.min(place, beside.length - 1)]);
  return true;
}

function focus(link) {
  link.focus({ preventScroll: true });
  const card = link.closest("li") ?? link;
  card.scrollIntoView({ block: "nearest" });
}
