// The first import of every plugin: see law.js.

import { enforce } from './law.js';

enforce();
