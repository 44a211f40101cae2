(() => {
  const title = document.getElementById("seen-name");
  const facts = document.getElementById("seen-facts");
  const clear = () => document.querySelectorAll(".seen").forEach((each) => each.classList.remove("seen"));
  const show = (dot) => {
    clear();
    dot.classList.add("seen");
    title.textContent = dot.dataset.name;
    facts.replaceChildren(
      ...Object.entries(JSON.parse(dot.dataset.facts)).flatMap(([name, text]) => {
        const term = document.createElement("dt");
        const told = document.createElement("dd");
        term.textContent = name;
        told.textContent = text;
        return [term, told];
      }),
    );
    const row = document.querySelector(`tr[data-name="${dot.dataset.name}"]`);
    if (row) row.classList.add("seen");
  };
  const dots = document.querySelectorAll("circle.trial");
  dots.forEach((dot) => ["mouseenter", "focus", "click"].forEach((on) => dot.addEventListener(on, () => show(dot))));
  document.querySelectorAll("tr[data-name]").forEach((row) =>
    row.addEventListener("mouseenter", () => {
      const dot = document.querySelector(`circle.trial[data-name="${row.dataset.name}"]`);
      if (dot) show(dot);
    }),
  );
  const first = document.querySelector("circle.trial.winner") || dots[0];
  if (first) show(first);
})();
