"""JavaScript: Node.js, npm packages that the project installed, and workers that compute with them."""
