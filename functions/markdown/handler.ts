import { marked } from 'marked';
import sanitizeHtml from 'sanitize-html';
import type { Handler } from '../types.ts';

const sourceLengthMax = 256 * 1024;

/** `{ "markdown": "# Hi" }` gives `{ "html": "<h1>Hi</h1>\n" }`, safe to put into a page. */
export const handler: Handler<{ markdown: string }, { html: string }> = async (event) => {
  if (typeof event?.markdown !== 'string') throw new TypeError('Give { "markdown": "text" }');
  if (event.markdown.length > sourceLengthMax) {
    throw new RangeError(`Give at most ${sourceLengthMax} characters of markdown`);
  }
  const html = await marked.parse(event.markdown, { gfm: true });
  return {
    html: sanitizeHtml(html, { allowedTags: [...sanitizeHtml.defaults.allowedTags, 'img'] }),
  };
};
