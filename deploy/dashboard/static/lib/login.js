// Asks for the token where the server wants one.

import { login } from "./api.js";
import { h, put } from "./dom.js";
import { status } from "./status.js";

/** A form in `root`; `entered` is called once the server took the token. The token is sent once and kept nowhere. */
export function askForToken(root, entered) {
  const said = h("div", {});
  const field = h("input", {
    id: "token",
    type: "password",
    autocomplete: "current-password",
    required: true,
    "aria-describedby": "token-note",
  });
  const form = h(
    "form",
    { class: "card login" },
    h("h1", {}, "This dashboard needs a token"),
    h("label", { for: "token" }, "Token"),
    field,
    h(
      "p",
      { class: "note", id: "token-note" },
      "tributary dashboard printed it when it started, unless TRIBUTARY_DASHBOARD_TOKEN was set: then it is that.",
    ),
    said,
    h("button", { type: "submit" }, "Open"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(said, status("loading", "Asking the server …"));
    try {
      await login(field.value);
      field.value = "";
      entered();
    } catch (error) {
      const wrong = error.kind === "unauthorised";
      put(said, status("error", error.message, wrong ? "Look for the token where the dashboard was started." : ""));
      field.select();
    }
  });
  put(root, form);
  field.focus();
}
