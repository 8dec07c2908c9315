import type { Handler } from '../../../functions/types.ts';

/** Wants a processor for itself, for so long. */
export const handler: Handler<{ forMs: number }> = ({ forMs }) => {
  for (const end = performance.now() + forMs; performance.now() < end;);
};
