/**
 * Processes forked from one zygote share its memory layout, its hash seed and its stack canary: who
 * reads one's own knows the others'. So only functions that trust each other share a zygote.
 */
export interface TrustClass {
  /** Whose function it is. */
  tenant: string;
  /** `exec`: each instance boots a Node.js of its own, and shares none of this with any other. */
  isolation: 'fork' | 'exec';
}

export const defaultTrustClass: TrustClass = { tenant: 'default', isolation: 'fork' };

/** The same for all functions of the class. */
export function trustKey({ tenant, isolation }: TrustClass): string {
  return `${isolation}/${tenant}`;
}
