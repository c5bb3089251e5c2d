// Selects a prompt; the choice is kept in the address.

import { get } from "./api.js";
import { h } from "./dom.js";
import { plain } from "./format.js";
import { change } from "./state.js";
import { oneLine } from "./text.js";

/** A labelled select of the run's prompts. `all`: the text of the empty choice, or null if a prompt is required. */
export function promptSelect(run, chosen, all = "all prompts") {
  const select = h(
    "select",
    { onchange: () => change({ prompt: select.value, page: "" }) },
    all && h("option", { value: "" }, all),
  );
  const option = (prompt) =>
    h(
      "option",
      { value: prompt.id, selected: prompt.id === chosen },
      `${oneLine(prompt.id, 24)} – ${oneLine(prompt.text, 48)} (${plain(prompt.samples)})`,
    );
  const ready = get("prompts", { run }).then(
    ({ prompts }) => {
      select.append(...prompts.map(option));
      if (chosen) select.value = chosen;
      return prompts;
    },
    () => [],
  );
  return { element: h("label", {}, "Prompt", select), ready };
}
