/** A function as they all are: each process loads it before its own, so that loading is warm. */
export const handler = (event: { name?: string } | undefined): { greeting: string } => ({
  greeting: `Good to see you, ${event?.name ?? 'stranger'}`,
});
