// The page put together: each part shows its share of every snapshot.

import { $, say, tell } from "./dom.js";
import { chooseKey, wireEditor } from "./editor.js";
import { list, wireKeys } from "./keys.js";
import { wireLocate } from "./locate.js";
import { showNodes } from "./nodes.js";
import { showOverview, wireOverview } from "./overview.js";
import { showPlots, wirePlots } from "./plots.js";
import { fadeDown, followRing } from "./ring.js";
import { follow } from "./stream.js";
import { wireToken } from "./token.js";
import { showWork } from "./work.js";

let troubles = "";

function heard(name, value) {
  if (name === "trouble") {
    showTrouble(`There are no figures: ${value.detail}.`, "warn");
    return;
  }
  if (name !== "snapshot") return;
  showOverview(value);
  showPlots(value);
  showNodes(value.cluster);
  showWork(value);
  fadeDown(value.cluster.members);
  followRing(value.cluster);
  const said = [...value.troubles, value.cluster.trouble].filter(Boolean);
  showTrouble(said.map((one) => one + ".").join(" "), "bad");
}

function showTrouble(text, state) {
  if (text === troubles) return;
  troubles = text;
  $("trouble").dataset.state = state;
  tell($("trouble"), text);
}

function showState(state, why) {
  $("pulse").dataset.state = state;
  say($("pulse"), state === "live" ? "live" : "no connection");
  if (state === "lost") {
    document.querySelector("#health .light").dataset.state = "wait";
    say($("health-text"), "Unknown: no connection to the proxy");
    showTrouble(`${why} What is shown is as it was. This page tries again by itself.`, "warn");
  }
}

function wireTheme() {
  const name = () => say($("theme"), document.documentElement.dataset.theme === "dark" ? "Light theme" : "Dark theme");
  $("theme").addEventListener("click", () => globalThis.changeTheme());
  document.addEventListener("themed", name);
  name();
}

wireTheme();
wireToken();
wireOverview();
wirePlots();
wireLocate();
wireKeys(chooseKey);
wireEditor();
follow(heard, showState);
list();
