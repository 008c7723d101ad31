// The process that goes into a container and starts the execs there. It imports little: it is to come up fast and stay small.
import { flushCompileCache } from 'node:module';
import { serveInside } from '../io/oci/exec/insider.ts';
import { openConfine } from '../io/sys/confine.ts';
import { openPackets } from '../io/sys/packets.ts';
import { openSpawnProgram } from '../io/sys/spawn.ts';

// Before it goes in: afterwards the cache would be sought in the container.
flushCompileCache();
serveInside({ confine: openConfine(), packets: openPackets(), spawn: openSpawnProgram() });
