"use strict";

// Pictures that stand side by side are laid on top of each other: the left one is cut off at the
// handle, and the restored one lies below it.
for (const compare of document.querySelectorAll(".compare")) {
  const figures = [...compare.querySelectorAll("figure")];
  const below = figures.find((figure) => figure.dataset.side === "right");
  const choices = figures.filter((figure) => figure !== below);
  if (!below || choices.length === 0) continue;
  const name = (figure) => figure.querySelector("figcaption").textContent;
  const make = (tag, className) => Object.assign(document.createElement(tag), { className });

  const frame = make("div", "frame");
  const over = choices[0].querySelector("img").cloneNode();
  over.classList.add("over");
  frame.append(below.querySelector("img"), over);
  const handle = Object.assign(make("input", "handle"), { type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  handle.setAttribute("aria-label", "share of the left picture that is shown");
  const sides = make("div", "sides");
  const left = make("span", "choices");
  const buttons = choices.map((figure) => {
    const button = Object.assign(make("button", ""), { type: "button", textContent: name(figure) });
    button.addEventListener("click", () => choose(figure, button));
    return button;
  });
  left.append(...buttons);
  const right = make("span", "faint");
  right.textContent = name(below);
  sides.append(left, right);

  const choose = (figure, button) => {
    over.src = figure.querySelector("img").src;
    over.alt = name(figure);
    buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
  };
  const move = () => {
    frame.style.setProperty("--at", handle.value + "%");
    for (const part of [handle, sides]) part.style.width = frame.clientWidth + "px";
  };
  const drag = (event) => {
    const box = frame.getBoundingClientRect();
    handle.value = (100 * (event.clientX - box.left)) / box.width;
    move();
  };
  handle.addEventListener("input", move);
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    drag(event);
  });
  frame.addEventListener("pointermove", (event) => {
    if (event.buttons) drag(event);
  });
  addEventListener("resize", move);

  choose(choices[0], buttons[0]);
  figures.forEach((figure) => (figure.hidden = true));
  compare.classList.add("live");
  compare.append(frame, handle, sides);
  move();
}

// The values under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const plot = chart.querySelector(".plot");
  const lines = [...chart.querySelectorAll("polyline")];
  const cursor = chart.querySelector(".cursor");
  const readout = chart.querySelector(".readout");
  const labels = chart.dataset.labels ? chart.dataset.labels.split("\n") : [];
  const values = lines.map((line) => line.dataset.values.split("|"));
  const count = Number(chart.dataset.count);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const at = Math.round(share * (count - 1));
    const x = count > 1 ? (1000 * at) / (count - 1) : 0;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.visibility = "visible";
    const parts = lines.map((line, k) => line.dataset.name + " " + values[k][at]);
    readout.textContent = [labels[at] || chart.dataset.step + " " + (at + 1), ...parts].join(", ");
  });
  plot.addEventListener("pointerleave", () => {
    cursor.style.visibility = "hidden";
    readout.textContent = "";
  });
}
