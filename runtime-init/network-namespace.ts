/** A network namespace with nothing but its loopback, made by entering it and coming back. */
import {
  bringLoopbackUp,
  joinNamespace,
  namespaceFlag,
  openOwnNamespace,
  unshare,
} from '../host/sys/namespace.ts';

export function makeNetworkNamespace(ownNetworkNamespace: number): number {
  unshare(namespaceFlag.network);
  try {
    bringLoopbackUp();
    return openOwnNamespace('network');
  } finally {
    joinNamespace(ownNetworkNamespace, namespaceFlag.network);
  }
}
