const app = /** @type {HTMLElement} */ (document.getElementById('app'));
app.textContent = 'Stentor';
