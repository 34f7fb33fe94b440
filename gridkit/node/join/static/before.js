// syft.js assigns to this global. Where there is none it makes one out of a string, which the page's policy forbids.
var regeneratorRuntime;
