/** Which idle instances have served their time: plain data in, a decision out. */
export interface IdleInstance {
  id: string;
  /** How long it has had nothing to do. */
  idleMs: number;
  keepAliveMs: number;
}

/** The instances to end now. */
export function expired(instances: readonly IdleInstance[]): string[] {
  return instances.filter(({ idleMs, keepAliveMs }) => idleMs >= keepAliveMs).map(({ id }) => id);
}

/** Which one to end for want of room: the one that has been idle for longest. */
export function victim(instances: readonly IdleInstance[]): string | undefined {
  let longest: IdleInstance | undefined;
  for (const each of instances)
    if (longest === undefined || each.idleMs > longest.idleMs) longest = each;
  return longest?.id;
}
