// Chooses a prompt; the choice is in the address.

import { get } from "./api.js";
import { h } from "./dom.js";
import { plain } from "./format.js";
import { change } from "./state.js";
import { plainly } from "./text.js";

/** A labelled select of the run's prompts. `all`: the text for "no choice", or null where one must be chosen. */
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
      `${plainly(prompt.id, 24)} – ${plainly(prompt.text, 48)} (${plain(prompt.samples)})`,
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
