// Sets the colour scheme before the first paint. A file of its own, because the content security
// policy allows no inline script. The key is the one that src/ui/theme.ts gives to Mantine.
(() => {
  var kept = null;
  try {
    kept = localStorage.getItem('mamba.theme');
  } catch {
    // storage is off: follow the system
  }
  var dark = kept === 'dark' || (kept !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.documentElement.setAttribute('data-mantine-color-scheme', dark ? 'dark' : 'light');
})();
