"use strict";

// Pictures that stand side by side are laid on top of each other: the left one is cut off at the
// handle, and the right one lies below it.
for (const compare of document.querySelectorAll(".compare")) {
  const figures = [...compare.querySelectorAll("figure")];
  const of = (side) => figures.filter((figure) => [side, "both"].includes(figure.dataset.side));
  const [lefts, rights] = [of("left"), of("right")];
  if (lefts.length === 0 || rights.length === 0) continue;
  const name = (figure) => figure.querySelector("figcaption").textContent;
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const copy = (figure) => figure.querySelector("img").cloneNode();

  const frame = make("div", { className: "frame" });
  const [over, below] = [copy(lefts[0]), copy(rights[0])];
  over.classList.add("over");
  frame.append(below, over);
  const show = (picture, figure) => {
    picture.src = figure.querySelector("img").src;
    picture.alt = name(figure);
  };
  const handle = make("input", { className: "handle", type: "range", min: 0, max: 100, step: 0.5, value: 50 });
  handle.setAttribute("aria-label", "share of the left picture that is shown");

  // A name where there is one picture, buttons for pictures of one side, a menu for those of both.
  const chooser = (side, choices, picture) => {
    const first = Number(compare.dataset[side] || 0);
    if (choices.every((figure) => figure.dataset.side === "both")) {
      const menu = make("select", {});
      menu.setAttribute("aria-label", side + " picture");
      menu.append(...choices.map((figure, k) => make("option", { value: k, textContent: name(figure) })));
      const choose = () => show(picture, choices[menu.value]);
      menu.addEventListener("change", choose);
      menu.value = first;
      choose();
      return menu;
    }
    show(picture, choices[first]);
    if (side === "right") return make("span", { className: "faint", textContent: name(choices[0]) });
    const buttons = choices.map((figure) => make("button", { type: "button", textContent: name(figure) }));
    const choose = (k) => {
      show(picture, choices[k]);
      buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === k)));
    };
    buttons.forEach((button, k) => button.addEventListener("click", () => choose(k)));
    choose(first);
    const all = make("span", { className: "choices" });
    all.append(...buttons);
    return all;
  };
  const sides = make("div", { className: "sides" });
  sides.append(chooser("left", lefts, over), chooser("right", rights, below));

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
