// Clips of the test split, two beside each other.
"use strict";

function inspector() {
  if (!data.clips.length) return data.notes.map((note) => el("p", { class: "muted", text: note }));
  const clips = data.clips.map((clip) => ({ ...clip, spectrogram: bytes(clip.spectrogram), gradcam: clip.gradcam ? bytes(clip.gradcam) : null }));
  const name = (clip) => `${clip.truth.join(", ") || "nothing"} · ${clip.path}${told_wrong(clip)}`;
  const beside = (start) => {
    const shown = panel();
    const sound = el("audio", { controls: true, preload: "none" }), note = el("p", { class: "muted small" });
    const picker = el("select", { "aria-label": "Clip", onchange: () => show(+picker.value) }, clips.map((clip, i) => el("option", { value: i, text: name(clip) })));
    const show = (i) => {
      const at = (i + clips.length) % clips.length;
      picker.value = at;
      sound.pause();
      sound.src = clips[at].sound;
      const beyond = data.geometry.sample_rate > 48000 ? " What lies above 24 kHz cannot be heard here." : "";
      note.textContent = `Made ${Math.abs(clips[at].louder_db)} dB ${clips[at].louder_db < 0 ? "softer" : "louder"} for listening.${beyond}`;
      shown.show(clips[at]);
    };
    const node = el("div", { class: "panel" },
      el("div", { class: "bar" },
        el("button", { type: "button", text: "←", "aria-label": "Clip before", onclick: () => show(+picker.value - 1) }), picker,
        el("button", { type: "button", text: "→", "aria-label": "Next clip", onclick: () => show(+picker.value + 1) })),
      sound, note, shown.node);
    show(start);
    return node;
  };
  // To begin with, two that experts were asked about, of unlike classes if there are.
  const asked = [...clips.keys()].filter((i) => clips[i].pairs.length), first = asked[0] ?? 0;
  const unlike = asked.find((i) => clips[i].truth[0] !== clips[first].truth[0]), second = unlike ?? (first + 1) % clips.length;
  return [
    data.notes.map((note) => el("p", { class: "muted small", text: note })),
    el("p", { class: "muted", text: "What the router made of each clip: outlined patches were heard by the experts below them, all others cost nothing. Saliency is the share of its attention." }),
    el("div", { class: "compare" }, beside(first), clips.length > 1 ? beside(second) : null),
  ];
}

const told_wrong = (clip) => (clip.truth.length === clip.answer.length && clip.truth.every((label) => clip.answer.includes(label)) ? "" : ` · answered ${clip.answer.join(", ") || "nothing"}`);
