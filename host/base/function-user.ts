/** User and group of every function, inside its container. */
export const functionUser = { uid: 1000, gid: 1000 } as const;
