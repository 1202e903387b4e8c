// Times as the reader's clock has them, and what live pages need.
import { follow } from "./live.js";
import { play } from "./player.js";

for (const time of document.querySelectorAll("time[data-local]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) continue;
  time.title = time.textContent;
  time.textContent = at.toLocaleString(document.documentElement.lang, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}
const live = document.querySelector("[data-live]");
if (live) follow(live);
const audio = document.querySelector("#player");
if (audio) play(audio);
// On a telephone the menu is wider than the page.
document.querySelector(".top nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
