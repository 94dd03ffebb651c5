// A search shows a few lines of each page, but pages opened from a folder cannot be fetched.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
