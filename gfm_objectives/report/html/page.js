"use strict";
for (const report of document.querySelectorAll(".report")) {
  fold(report);
  gallery(report);
  costs(report);
}

/* Rows of tasks go away until their contender is asked for. */
function fold(report) {
  for (const button of report.querySelectorAll("button.fold")) {
    const rows = [];
    for (let r = button.closest("tr").nextElementSibling; r && r.className === "task"; r = r.nextElementSibling) rows.push(r);
    const show = (open) => {
      button.setAttribute("aria-expanded", open);
      for (const row of rows) row.hidden = !open;
    };
    button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
    show(false);
  }
}

/* Pictures of one place: input, label, the U-Net's, the contender's, and where they differ. */
function gallery(report) {
  const box = report.querySelector(".gallery");
  if (!box) return;
  const data = JSON.parse(box.querySelector("script").textContent);
  const [task, contender, place] = ["task", "contender", "place"].map((n) => box.querySelector(`select.${n}`));
  const fill = (select, values) => {
    const before = select.value;
    select.replaceChildren(...values.map(([value, text]) => new Option(text, value)));
    if (values.some(([value]) => value === before)) select.value = before;
  };
  const choose = () => {
    const t = data[task.value];
    fill(contender, Object.keys(t.contenders).map((c) => [c, c]));
    if (!contender.value) contender.value = t.first;
    show();
  };
  const show = () => {
    const t = data[task.value], own = t.contenders[contender.value];
    const places = t.image.map((_, i) => [String(i), `place ${i + 1} of ${t.image.length}`]);
    fill(place, own.worst ? [...places, ["worst", "where it errs most"]] : places);
    const i = Number(place.value);
    const shown = place.value === "worst"
      ? { ...own.worst, rival: null }
      : { input: t.image[i], label: t.label[i], rival: t.rival && t.contenders[t.rival].map[i], own: own.map[i], difference: own.difference[i] };
    for (const [name, source] of Object.entries(shown)) {
      const figure = box.querySelector(`figure.${name}`);
      figure.hidden = !source;
      if (source) figure.querySelector("img").src = "data:image/png;base64," + source;
    }
    box.querySelector("figure.own figcaption").textContent = contender.value;
    box.querySelector("figure.rival figcaption").textContent = t.rival || "";
    box.querySelector("figure.own img").alt = `what ${contender.value} predicts`;
    box.querySelector(".legend").replaceChildren(...t.legend.map(([color, text]) => {
      const span = document.createElement("span"), square = document.createElement("i");
      square.style.background = color;
      span.append(square, text);
      return span;
    }));
  };
  fill(task, Object.keys(data).map((t) => [t, t]));
  task.addEventListener("change", () => { contender.replaceChildren(); choose(); });
  contender.addEventListener("change", show);
  place.addEventListener("change", show);
  choose();
}

/* kWh and money follow the two assumptions, where energy was not measured. */
function costs(report) {
  const box = report.querySelector(".costs");
  if (!box) return;
  const [watts, price] = ["watts", "price"].map((n) => box.querySelector(`input.${n}`));
  const update = () => {
    for (const row of box.querySelectorAll("tr[data-hours]")) {
      const measured = row.dataset.kwh;
      const kwh = measured ? Number(measured) : Number(row.dataset.hours) * Number(watts.value) / 1000;
      row.querySelector(".kwh").textContent = row.dataset.hours === "" ? "unknown" : brief(kwh);
      row.querySelector(".money").textContent = row.dataset.hours === "" ? "unknown" : brief(kwh * Number(price.value));
    }
  };
  const brief = (x) => (x === 0 ? "0" : x >= 0.001 ? x.toPrecision(2) : x.toExponential(1));
  watts.addEventListener("input", update);
  price.addEventListener("input", update);
  update();
}
