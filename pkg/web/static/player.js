// The recording in step with the conversation.
export function play(audio) {
  const turns = [...document.querySelectorAll(".turn[data-at]")];
  const starts = turns.map((turn) => Number(turn.dataset.at));
  let lit;

  function light() {
    let i = starts.length - 1;
    while (i > 0 && starts[i] > audio.currentTime + 0.05) i--;
    if (turns[i] === lit) return;
    lit?.removeAttribute("aria-current");
    lit = turns[i];
    lit?.setAttribute("aria-current", "true");
  }

  function hear(seconds) {
    audio.currentTime = seconds;
    light();
    audio.play().catch(() => {}); // the browser may want a gesture first
  }

  turns.forEach((turn, i) => turn.querySelector(".seek")?.addEventListener("click", () => hear(starts[i])));
  audio.addEventListener("timeupdate", light);
  audio.addEventListener("seeked", light);
  document.querySelector("#speed").addEventListener("change", (event) => { audio.playbackRate = Number(event.target.value); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    switch (event.code) {
      case "KeyK": audio.paused ? audio.play().catch(() => {}) : audio.pause(); break;
      case "KeyJ": audio.currentTime = Math.max(0, audio.currentTime - 5); break;
      case "KeyL": audio.currentTime += 5; break;
    }
  });
}
