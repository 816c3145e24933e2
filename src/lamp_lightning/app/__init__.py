"""A page in the browser: from clips to a tuned motion and its videos."""
