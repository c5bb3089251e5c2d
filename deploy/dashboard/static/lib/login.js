// The login form, shown if the server requires a token.

import { login } from "./api.js";
import { h, put } from "./dom.js";
import { status } from "./status.js";

/** Show the form in `root`; `onSuccess` is called when the server accepts the token. The token is not stored. */
export function showLoginForm(root, onSuccess) {
  const message = h("div", {});
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
      "tributary dashboard printed the token when it started, unless TRIBUTARY_DASHBOARD_TOKEN was set: then use its value.",
    ),
    message,
    h("button", { type: "submit" }, "Open"),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put(message, status("loading", "Checking the token …"));
    try {
      await login(field.value);
      field.value = "";
      onSuccess();
    } catch (error) {
      const wrong = error.kind === "unauthorised";
      put(message, status("error", error.message, wrong ? "The token was printed in the terminal that started the dashboard." : ""));
      field.select();
    }
  });
  put(root, form);
  field.focus();
}
