"use strict";
// The server says in Server-Timing when it was asked, and when it had answered: a browser tells of what was hinted only
// from the moment when the page wanted it.
addEventListener("load", () => {
  const parts = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
    .filter(part => part.serverTiming.length)
    .map(part => {
      const [asked, answered] = ["asked", "answered"].map(name => part.serverTiming.find(timing => timing.name === name).duration);
      const name = new URL(part.name).pathname.split("/").pop() || "the page";
      return { name, asked, answered, early: part.initiatorType === "early-hints" };
    });
  const began = parts[0].asked, all = Math.max(...parts.map(part => part.answered)) - began;
  const early = parts.filter(part => part.early).length;
  document.getElementById("time").textContent = `${(all / 1000).toFixed(1)} s`;
  document.getElementById("how").textContent = early
    ? "Its stylesheet and its script were asked for before the page was there."
    : "Nothing could be asked for before the page was there.";
  document.getElementById("bars").replaceChildren(...parts.map(({ name, asked, answered, early }) => {
    const row = document.createElement("li"), track = document.createElement("span"), bar = document.createElement("b");
    row.className = early ? "early" : "";
    bar.style.setProperty("--from", `${100 * (asked - began) / all}%`);
    bar.style.setProperty("--long", `${100 * (answered - asked) / all}%`);
    bar.textContent = `${((asked - began) / 1000).toFixed(1)} – ${((answered - began) / 1000).toFixed(1)} s`;
    track.append(bar);
    row.append(name, track);
    return row;
  }));
  document.querySelector(`[data-hints="${location.search === "?hints=no" ? "no" : "yes"}"]`).className = "here";
});
