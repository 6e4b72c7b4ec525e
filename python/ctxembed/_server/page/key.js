// Asks for the key of the server.

/** Resolve to the key that the person gives. The question cannot be dismissed: nothing works without. */
export function askForKey(wrong) {
  const dialog = document.getElementById("key");
  const form = document.getElementById("key-form");
  const input = document.getElementById("key-input");
  document.getElementById("key-text").textContent = wrong
    ? "The server does not accept this key. Please try another."
    : "It is kept in this tab, and forgotten when you close it.";
  input.value = "";
  input.toggleAttribute("aria-invalid", wrong);
  dialog.showModal();
  return new Promise((resolve) => {
    const stay = (event) => event.preventDefault();
    dialog.addEventListener("cancel", stay);
    form.addEventListener("submit", function use(event) {
      event.preventDefault();
      const key = input.value.trim();
      if (!key) return;
      form.removeEventListener("submit", use);
      dialog.removeEventListener("cancel", stay);
      input.value = "";
      dialog.close();
      resolve(key);
    });
  });
}
