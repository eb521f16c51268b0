{
  // Relative links work with a final slash in the address, and without one. The link to this page shows the base path.
  const current = document.querySelector('header [aria-current]').getAttribute('href').replace('./', '');
  const path = location.pathname.replace(/\/+$/, '');
  const base = current && path.endsWith('/' + current) ? path.slice(0, -current.length - 1) : path;
  document.querySelectorAll('a[href]:not([href^="#"])').forEach(link => {
    link.href = base + '/' + link.getAttribute('href').replace('./', '');
  });
}
