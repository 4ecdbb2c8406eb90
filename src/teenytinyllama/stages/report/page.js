(function () {
  var root = document.documentElement, button = document.getElementById("theme");
  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function name() { button.textContent = dark() ? "Light" : "Dark"; }
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = dark() ? "light" : "dark";
    name();
  });
  name();
  var links = document.querySelectorAll("nav a"), watcher = new IntersectionObserver(
    function (entries) {
      entries.forEach(function (entry) {
        if (!entry.isIntersecting) return;
        links.forEach(function (link) {
          link.classList.toggle("here", link.hash === "#" + entry.target.id);
        });
      });
    }, { rootMargin: "-10% 0px -80% 0px" });
  document.querySelectorAll("main section").forEach(function (s) { watcher.observe(s); });
})();
