import type { Handler } from '../types.ts';

/** `{ "name": "Ada" }` gives `{ "greeting": "Hello, Ada!" }`. */
export const handler: Handler<{ name?: string } | undefined, { greeting: string }> = (event) => ({
  greeting: `Hello, ${event?.name ?? 'world'}!`,
});
