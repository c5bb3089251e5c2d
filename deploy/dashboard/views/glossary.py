"""Terms explained on the posterior page, in the report and under plots. static/lib/glossary.js has the same words."""

GLOSSARY = {
    "log R": "the log of the reward of a string, in nats; the target is proportional to R^(1/T), with temperature T",
    "log Z": "the log of the sum of R^(1/T) over all strings, which normalises the target",
    "u": "the estimate of log Z that a prefix makes; all agree at the optimum",
    "⊤": "the stop sign: the action that ends a string",
}
