// Building the page. Text of other people only ever becomes a text node, within its own direction.

/**
 * An element. Properties named `on…` are listeners, `aria-…`, `role`, `for` and the like are
 * attributes, the rest are the element's own properties.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {{[name: string]: any}} [properties]
 * @param {...(Node | string | null)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function el(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
        if (name.startsWith('on')) {
            element.addEventListener(name.slice(2), value);
        } else if (name in element && !name.includes('-')) {
            /** @type {any} */ (element)[name] = value;
        } else {
            element.setAttribute(name, String(value));
        }
    }
    element.append(...children.filter((child) => child !== null));
    return element;
}

/** Characters that turn the direction of what follows, and may make a text look like another. */
const TURNS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** What somebody else has written, without what would turn it. @param {string} text */
export function plain(text) {
    return text.replace(TURNS, '');
}

/** What somebody else has written: isolated, so that its direction turns nothing around it. @param {string} text */
export function said(text) {
    return el('bdi', { textContent: plain(text) });
}

/** Sets a text only where it changes: a live region is not read out again. @param {Node} node @param {string} text */
export function setText(node, text) {
    if (node.textContent !== text) {
        node.textContent = text;
    }
}

/** Sets a text of somebody else's within its own direction. @param {HTMLElement} node @param {string} text */
export function setSaid(node, text) {
    if (node.textContent !== plain(text)) {
        node.replaceChildren(said(text));
    }
}

/**
 * Makes a list's items those of `wanted`, by key: an item that stays is updated in place, so that
 * focus stays where it is.
 * @template Item
 * @param {HTMLElement} list
 * @param {Item[]} wanted
 * @param {{key: (item: Item) => string, make: (item: Item) => HTMLElement,
 *     update: (node: HTMLElement, item: Item) => void}} how
 */
export function setItems(list, wanted, { key, make, update }) {
    /** @type {Map<string, HTMLElement>} */
    const known = new Map();
    for (const node of /** @type {HTMLElement[]} */ ([...list.children])) {
        known.set(node.dataset.key ?? '', node);
    }
    let before = /** @type {Element | null} */ (list.firstElementChild);
    for (const item of wanted) {
        const name = key(item);
        let node = known.get(name);
        known.delete(name);
        if (!node) {
            node = make(item);
            node.dataset.key = name;
        }
        update(node, item);
        if (node === before) {
            before = before.nextElementSibling;
        } else {
            list.insertBefore(node, before);
        }
    }
    for (const node of known.values()) {
        node.remove();
    }
}

/**
 * A meter from 0 to 1 with a name, for sound levels.
 * @param {string} name
 */
export function meter(name) {
    const bar = el('span', { className: 'meter-bar' });
    const node = el('span', {
        className: 'meter', role: 'meter', 'aria-label': name,
        'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-valuenow': 0,
    }, bar);
    return {
        node,
        /** @param {number} share */
        set(share) {
            const percent = Math.round(Math.min(1, Math.max(0, share)) * 100);
            if (node.getAttribute('aria-valuenow') !== String(percent)) {
                node.setAttribute('aria-valuenow', String(percent));
                bar.style.transform = `scaleX(${percent / 100})`;
            }
        },
    };
}

/** A level in −dBov as a share of a meter: −60 dBov and below is nothing. @param {number} level */
export function shareOf(level) {
    return Math.min(1, Math.max(0, (60 - level) / 50));
}
