import { leaveMachineNetwork } from '../support/test-network.ts';
import { networkConformance } from './7-network.ts';

leaveMachineNetwork();
networkConformance('iptables');
