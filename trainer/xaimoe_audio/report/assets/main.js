// Puts the page together.
"use strict";

section("results", "Results", results());
section("inspector", "Clips", inspector());
if (typeof live === "function") section("live", "Try it", live());
section("usage", "Experts", usage());
section("faithfulness", "Faithfulness", faithfulness());
section("curves", "Learning curves", curves());
section("device", "On the device", device());
section("dataset", "Dataset", dataset());
section("policy", "Policy", policy());
document.body.dataset.ready = "report";
