SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.attempts (
    no bigint NOT NULL,
    seq bigint NOT NULL,
    attempt integer NOT NULL,
    worker text NOT NULL COLLATE pg_catalog."C",
    incarnation text NOT NULL COLLATE pg_catalog."C",
    assigned_at double precision NOT NULL,
    started_at double precision,
    finished_at double precision,
    outcome text NOT NULL COLLATE pg_catalog."C",
    error text,
    counted boolean NOT NULL
);
CREATE SEQUENCE public.attempts_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.attempts_no_seq OWNED BY public.attempts.no;
CREATE TABLE public.definitions (
    seq bigint NOT NULL,
    terms text NOT NULL,
    description text,
    payload text
);
CREATE TABLE public.kinds (
    kind bigint NOT NULL,
    need text NOT NULL
);
CREATE TABLE public.leader (
    id integer NOT NULL,
    holder text NOT NULL COLLATE pg_catalog."C",
    epoch bigint NOT NULL,
    expires_at double precision NOT NULL
);
CREATE TABLE public.meta (
    key text NOT NULL COLLATE pg_catalog."C",
    value text NOT NULL
);
CREATE TABLE public.run_counts (
    run text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    n bigint NOT NULL
);
CREATE TABLE public.runs (
    run text NOT NULL COLLATE pg_catalog."C",
    title text NOT NULL,
    submitted_at double precision NOT NULL,
    finished_at double precision,
    first_seq bigint NOT NULL
);
CREATE TABLE public.skillq_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.tasks (
    seq bigint NOT NULL,
    run text NOT NULL COLLATE pg_catalog."C",
    id text NOT NULL COLLATE pg_catalog."C",
    status text NOT NULL COLLATE pg_catalog."C",
    type text NOT NULL COLLATE pg_catalog."C",
    fingerprint bigint NOT NULL,
    submitted_at double precision NOT NULL,
    opened_at double precision,
    retry_at double precision,
    finished_at double precision,
    failures integer NOT NULL,
    losses integer NOT NULL,
    attempt integer NOT NULL,
    assigned_at double precision,
    started_at double precision,
    worker text COLLATE pg_catalog."C",
    worker_name text COLLATE pg_catalog."C",
    incarnation text COLLATE pg_catalog."C",
    outcome text COLLATE pg_catalog."C",
    reason text,
    error text,
    need text,
    output text,
    kind bigint,
    rank integer
);
CREATE TABLE public.workers (
    name text NOT NULL COLLATE pg_catalog."C",
    profile text NOT NULL,
    status text NOT NULL COLLATE pg_catalog."C",
    reason text NOT NULL,
    since double precision NOT NULL
);
ALTER TABLE ONLY public.attempts ALTER COLUMN no SET DEFAULT nextval('public.attempts_no_seq'::regclass);
INSERT INTO public.attempts VALUES (1, 5, 1, 'Senior Engineer', '4ee0121d857f491dae8dc048a1fc8864', 1796075539.698753, 1796075539.7134497, 1796075539.718632, 'failed', 'ValueError: too hard for a beginner: größer', true);
INSERT INTO public.attempts VALUES (2, 6, 1, 'Junior', '1d673de0a83f4b0f99dd2d044f20202b', 1796075539.9840333, 1796075539.9929798, 1796075539.9955153, 'failed', 'ValueError: out of paper', true);
INSERT INTO public.attempts VALUES (3, 21, 1, 'Napper', '01b26c02b837433693bf0b758b27b0c0', 1796075541.3013616, NULL, 1796075541.5132766, 'returned', 'another worker is idle', true);
INSERT INTO public.attempts VALUES (4, 29, 1, 'Junior', '1d673de0a83f4b0f99dd2d044f20202b', 1796075541.8220205, 1796075541.8278651, 1796075541.8282835, 'failed', 'ValueError: not yet', true);
INSERT INTO public.attempts VALUES (5, 30, 1, 'Senior Engineer', '4ee0121d857f491dae8dc048a1fc8864', 1796075541.8220205, 1796075541.8278482, 1796075541.8281868, 'failed', 'ValueError: not yet', true);
INSERT INTO public.attempts VALUES (6, 28, 1, 'Novice', '608bc26e52264936b581ed18cdd4a29f', 1796075541.8220205, 1796075541.8303816, 1796075541.8304632, 'refused', 'no handler for the type ''paint''', true);
INSERT INTO public.attempts VALUES (7, 25, 1, 'Casualty', 'e091087838f647ea8ca58b457e4879cc', 1796075541.8971019, 1700000000.25, 1796075542.721153, 'lost', 'worker Casualty: not heard of for 0.8 s', true);
INSERT INTO public.attempts VALUES (8, 25, 1, 'casualty', 'e091087838f647ea8ca58b457e4879cc', 1700000000.25, 1700000000.25, 1700000001.25, 'failed', 'came home late', false);
INSERT INTO public.attempts VALUES (9, 27, 1, 'Bouncer', 'c8ac6d0489534966af5051bcd90912bf', 1796075542.779822, 1700000000.25, 1700000001.25, 'returned', 'was returned', true);
INSERT INTO public.attempts VALUES (10, 27, 2, 'Bouncer', 'c8ac6d0489534966af5051bcd90912bf', 1796075542.8446352, 1700000000.25, 1700000001.25, 'cancelled', 'was cancelled', true);
INSERT INTO public.attempts VALUES (11, 27, 3, 'Bouncer', 'c8ac6d0489534966af5051bcd90912bf', 1796075542.8908942, 1700000000.25, 1700000001.25, 'lost', 'was lost', true);
INSERT INTO public.attempts VALUES (12, 26, 1, 'Leaver', '055e8627442c441b8d5f8b425e9ae200', 1796075542.9586174, NULL, 1796075542.983451, 'returned', 'worker Leaver: goes home', true);
INSERT INTO public.definitions VALUES (1, '{"difficulty":2,"type":"add"}', NULL, '{"a":1.5,"b":-2}');
INSERT INTO public.definitions VALUES (2, '{"difficulty":5,"type":"add","priority":7,"timeout":120.0,"deadline":1000000000.0}', 'Adds what is large: 10²³ — „genau“', '{"a":1e+23}');
INSERT INTO public.definitions VALUES (3, '{"difficulty":1,"type":"add","requires":["gpu"]}', NULL, '{"a":3}');
INSERT INTO public.definitions VALUES (4, '{"difficulty":4,"type":"join","depends_on":["1","sum.2","gpu"]}', NULL, '{"separator":" + "}');
INSERT INTO public.definitions VALUES (5, '{"difficulty":2,"type":"stumble","max_attempts":3,"retry_on":["ValueError"],"no_retry_on":["KeyError"],"escalate_by":2}', NULL, '{"text":"too hard for a beginner: größer","times":1}');
INSERT INTO public.definitions VALUES (6, '{"difficulty":1,"type":"stumble"}', NULL, '{"text":"out of paper"}');
INSERT INTO public.definitions VALUES (7, '{"difficulty":1,"type":"add","depends_on":["broken"]}', NULL, NULL);
INSERT INTO public.definitions VALUES (8, '{"difficulty":1,"type":"join","depends_on":["broken"],"on_failed_dependency":"run"}', NULL, NULL);
INSERT INTO public.definitions VALUES (9, '{"difficulty":1,"type":"add"}', NULL, '{"c":null}');
INSERT INTO public.definitions VALUES (10, '{"difficulty":1,"type":"nap","timeout":0.05}', NULL, '{"seconds":60}');
INSERT INTO public.definitions VALUES (11, '{"difficulty":1,"type":"add","requires":["wings"],"unroutable":"reject","unroutable_after":0.1}', NULL, NULL);
INSERT INTO public.definitions VALUES (12, '{"difficulty":10,"type":"add","unroutable":"relax","unroutable_after":0.1}', NULL, '{"a":10}');
INSERT INTO public.definitions VALUES (13, '{"difficulty":10,"type":"nap"}', NULL, NULL);
INSERT INTO public.definitions VALUES (14, '{"difficulty":1,"type":"nap"}', NULL, '{"seconds":600}');
INSERT INTO public.definitions VALUES (15, '{"difficulty":1,"type":"add"}', NULL, '{"a":1}');
INSERT INTO public.definitions VALUES (16, '{"difficulty":1,"type":"join","depends_on":["p1"]}', NULL, NULL);
INSERT INTO public.definitions VALUES (17, '{"difficulty":1,"type":"nap","requires":["nap"]}', NULL, '{"seconds":0}');
INSERT INTO public.definitions VALUES (18, '{"difficulty":1,"type":"nap","requires":["nap"]}', NULL, '{"seconds":0}');
INSERT INTO public.definitions VALUES (19, '{"difficulty":1,"type":"nap","requires":["nap"]}', NULL, '{"seconds":600}');
INSERT INTO public.definitions VALUES (20, '{"difficulty":1,"type":"nap","requires":["nap"]}', NULL, '{"seconds":600}');
INSERT INTO public.definitions VALUES (21, '{"difficulty":1,"type":"nap","requires":["nap"]}', NULL, '{"seconds":600}');
INSERT INTO public.definitions VALUES (22, '{"difficulty":9,"type":"nap"}', NULL, '{"seconds":600}');
INSERT INTO public.definitions VALUES (23, '{"difficulty":1,"type":"join","depends_on":["running"]}', NULL, NULL);
INSERT INTO public.definitions VALUES (24, '{"difficulty":1,"type":"add","requires":["mute"]}', NULL, '{"a":1}');
INSERT INTO public.definitions VALUES (25, '{"difficulty":1,"type":"add","requires":["lost"]}', NULL, '{"a":2}');
INSERT INTO public.definitions VALUES (26, '{"difficulty":1,"type":"add","requires":["returned"]}', NULL, '{"a":3}');
INSERT INTO public.definitions VALUES (27, '{"difficulty":1,"type":"add","requires":["bounced"]}', NULL, '{"a":4}');
INSERT INTO public.definitions VALUES (28, '{"difficulty":1,"type":"paint","requires":["paint"]}', NULL, NULL);
INSERT INTO public.definitions VALUES (29, '{"difficulty":1,"type":"stumble","max_attempts":2}', NULL, '{"text":"not yet"}');
INSERT INTO public.definitions VALUES (30, '{"difficulty":6,"type":"stumble","max_attempts":2,"escalate_by":4}', NULL, '{"text":"not yet"}');
INSERT INTO public.definitions VALUES (31, '{"difficulty":3,"type":"add","requires":["rare"]}', NULL, '{"a":0}');
INSERT INTO public.definitions VALUES (32, '{"difficulty":3,"type":"add","priority":2,"requires":["rare"]}', NULL, '{"a":1}');
INSERT INTO public.definitions VALUES (33, '{"difficulty":3,"type":"add","priority":3,"requires":["rare"]}', NULL, '{"a":2}');
INSERT INTO public.definitions VALUES (34, '{"difficulty":3,"type":"add","requires":["rare"]}', NULL, '{"a":3}');
INSERT INTO public.definitions VALUES (35, '{"difficulty":3,"type":"add","priority":2,"requires":["rare"]}', NULL, '{"a":4}');
INSERT INTO public.definitions VALUES (36, '{"difficulty":3,"type":"add","priority":3,"requires":["rare"]}', NULL, '{"a":5}');
INSERT INTO public.definitions VALUES (37, '{"difficulty":3,"type":"add","requires":["rare"]}', NULL, '{"a":6}');
INSERT INTO public.definitions VALUES (38, '{"difficulty":3,"type":"add","priority":2,"requires":["rare"]}', NULL, '{"a":7}');
INSERT INTO public.definitions VALUES (39, '{"difficulty":3,"type":"add","priority":3,"requires":["rare"]}', NULL, '{"a":8}');
INSERT INTO public.definitions VALUES (40, '{"difficulty":3,"type":"add","requires":["rare"]}', NULL, '{"a":9}');
INSERT INTO public.definitions VALUES (41, '{"difficulty":3,"type":"add","priority":2,"requires":["rare"]}', NULL, '{"a":10}');
INSERT INTO public.definitions VALUES (42, '{"difficulty":3,"type":"add","priority":3,"requires":["rare"]}', NULL, '{"a":11}');
INSERT INTO public.kinds VALUES (2163730681478769866, '{"type":"add","difficulty":3,"requires":["rare"],"excluded":[],"aged":false}');
INSERT INTO public.leader VALUES (1, 'c82760b16e494d1a8fc20e950c67087e', 1, 0);
INSERT INTO public.meta VALUES ('id', 'cca8990c');
INSERT INTO public.run_counts VALUES ('night-report', 'ready', 0);
INSERT INTO public.run_counts VALUES ('night-report', 'blocked', 0);
INSERT INTO public.run_counts VALUES ('night-report', 'succeeded', 5);
INSERT INTO public.run_counts VALUES ('failures', 'blocked', 0);
INSERT INTO public.run_counts VALUES ('failures', 'timed_out', 1);
INSERT INTO public.run_counts VALUES ('failures', 'cancelled', 2);
INSERT INTO public.run_counts VALUES ('failures', 'dead_lettered', 1);
INSERT INTO public.run_counts VALUES ('failures', 'ready', 0);
INSERT INTO public.run_counts VALUES ('failures', 'succeeded', 2);
INSERT INTO public.run_counts VALUES ('failures', 'failed', 3);
INSERT INTO public.run_counts VALUES ('in-parts', 'blocked', 0);
INSERT INTO public.run_counts VALUES ('in-parts', 'succeeded', 2);
INSERT INTO public.run_counts VALUES ('naps', 'ready', 0);
INSERT INTO public.run_counts VALUES ('naps', 'succeeded', 2);
INSERT INTO public.run_counts VALUES ('naps', 'cancelled', 3);
INSERT INTO public.run_counts VALUES ('open-work', 'blocked', 1);
INSERT INTO public.run_counts VALUES ('open-work', 'ready', 5);
INSERT INTO public.run_counts VALUES ('backlog', 'ready', 12);
INSERT INTO public.runs VALUES ('night-report', 'Night report', 1796075539.698753, 1796075539.8731947, 1);
INSERT INTO public.runs VALUES ('failures', 'Failures', 1796075539.9840333, 1796075541.0526521, 6);
INSERT INTO public.runs VALUES ('in-parts', 'In parts', 1796075541.0804536, 1796075541.1140404, 15);
INSERT INTO public.runs VALUES ('naps', 'Naps', 1796075541.233537, 1796075541.5911083, 17);
INSERT INTO public.runs VALUES ('open-work', 'Open work', 1796075541.8220205, NULL, 22);
INSERT INTO public.runs VALUES ('backlog', 'Backlog', 1796075543.4308543, NULL, 31);
INSERT INTO public.skillq_version VALUES ('0003');
INSERT INTO public.tasks VALUES (2, 'night-report', 'sum.2', 'succeeded', 'add', 3514546021216819326, 1796075539.698753, NULL, NULL, 1796075539.7183359, 0, 0, 1, 1796075539.698753, 1796075539.7134116, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', 'succeeded', NULL, NULL, NULL, '1e+23', NULL, NULL);
INSERT INTO public.tasks VALUES (1, 'night-report', '1', 'succeeded', 'add', 2880757762454881922, 1796075539.698753, NULL, NULL, 1796075539.7186458, 0, 0, 1, 1796075539.698753, 1796075539.7134593, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'succeeded', NULL, NULL, NULL, '-0.5', NULL, NULL);
INSERT INTO public.tasks VALUES (12, 'failures', 'relaxed', 'succeeded', 'add', 2851129282846030693, 1796075539.9840333, NULL, NULL, 1796075540.9994752, 0, 0, 1, 1796075540.9848585, 1796075540.999336, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', 'succeeded', NULL, NULL, '{"type":"add","difficulty":9,"requires":[],"excluded":[],"aged":false}', '10.0', NULL, NULL);
INSERT INTO public.tasks VALUES (5, 'night-report', 'escalated', 'succeeded', 'stumble', 1659370683294332412, 1796075539.698753, NULL, NULL, 1796075539.7351363, 1, 0, 2, 1796075539.7209058, 1796075539.7349744, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', 'succeeded', NULL, NULL, '{"type":"stumble","difficulty":4,"requires":[],"excluded":[],"aged":false}', '2', NULL, NULL);
INSERT INTO public.tasks VALUES (3, 'night-report', 'gpu', 'succeeded', 'add', 6063385293545195775, 1796075539.698753, NULL, NULL, 1796075539.8455076, 0, 0, 1, 1796075539.8143427, 1796075539.8453605, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', 'succeeded', NULL, NULL, NULL, '3.0', NULL, NULL);
INSERT INTO public.tasks VALUES (4, 'night-report', 'joined', 'succeeded', 'join', 4225158257463991559, 1796075539.698753, NULL, NULL, 1796075539.8716588, 0, 0, 1, 1796075539.8467193, 1796075539.8714201, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', 'succeeded', NULL, NULL, NULL, '{"text":"-0.5 + 3.0 + 1e+23","from":["1","gpu","sum.2"]}', NULL, NULL);
INSERT INTO public.tasks VALUES (7, 'failures', 'after', 'failed', 'add', 8216838309278140211, 1796075539.9840333, NULL, NULL, 1796075540.0019648, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 'dependency broken failed', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (9, 'failures', 'misread', 'failed', 'add', 5942893261844085414, 1796075539.9840333, NULL, NULL, 1796075540.0007455, 1, 0, 1, 1796075539.9840333, 1796075539.9955277, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'failed', 'payload: a is missing (and 1 more)', 'payload: a is missing (and 1 more)', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (8, 'failures', 'anyway', 'succeeded', 'join', 6200209531856945244, 1796075539.9840333, NULL, NULL, 1796075540.0246267, 0, 0, 1, 1796075540.0019648, 1796075540.0244505, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'succeeded', NULL, NULL, NULL, '{"text":"None","from":["broken"]}', NULL, NULL);
INSERT INTO public.tasks VALUES (10, 'failures', 'slow', 'timed_out', 'nap', 2453821784206551860, 1796075539.9840333, NULL, NULL, 1796075540.1003163, 1, 0, 1, 1796075540.0330768, 1796075540.0495458, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'timed_out', 'took longer than 0.05 s', 'took longer than 0.05 s', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (13, 'failures', 'unwanted', 'cancelled', 'nap', 4661473385441806892, 1796075539.9840333, NULL, NULL, 1796075540.1547172, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 'nobody needs them', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (14, 'failures', 'stopped', 'cancelled', 'nap', 8564766351357222273, 1796075539.9840333, NULL, NULL, 1796075540.1547172, 0, 0, 1, 1796075540.1021338, 1796075540.1094384, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'cancelled', 'nobody needs them', 'nobody needs them', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (11, 'failures', 'impossible', 'dead_lettered', 'add', 3075590570236717982, 1796075539.9840333, NULL, NULL, 1796075540.9848585, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, 'no worker has the specialties it requires: wings', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (6, 'failures', 'broken', 'failed', 'stumble', 520224279909803624, 1796075539.9840333, 1796075541.0254216, NULL, 1796075541.0473285, 1, 0, 2, 1796075541.0254216, 1796075541.0468605, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'failed', 'ValueError: out of paper', 'ValueError: out of paper', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (15, 'in-parts', 'p1', 'succeeded', 'add', 9059035042918264375, 1796075541.0804536, NULL, NULL, 1796075541.0989037, 0, 0, 1, 1796075541.0804536, 1796075541.0987573, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'succeeded', NULL, NULL, NULL, '1.0', NULL, NULL);
INSERT INTO public.tasks VALUES (16, 'in-parts', 'p2', 'succeeded', 'join', 9011119251292871908, 1796075541.0804536, NULL, NULL, 1796075541.1127849, 0, 0, 1, 1796075541.1001678, 1796075541.1126258, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', 'succeeded', NULL, NULL, NULL, '{"text":"1.0","from":["p1"]}', NULL, NULL);
INSERT INTO public.tasks VALUES (17, 'naps', '0', 'succeeded', 'nap', 5954125482278224083, 1796075541.233537, NULL, NULL, 1796075541.2393327, 0, 0, 1, 1796075541.233537, 1796075541.239204, 'Napper', 'napper', '01b26c02b837433693bf0b758b27b0c0', 'succeeded', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (18, 'naps', '1', 'succeeded', 'nap', 5954125482278224083, 1796075541.233537, NULL, NULL, 1796075541.254704, 0, 0, 1, 1796075541.2425673, 1796075541.2544088, 'Napper', 'napper', '01b26c02b837433693bf0b758b27b0c0', 'succeeded', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (19, 'naps', 'long-0', 'cancelled', 'nap', 4823114362664513021, 1796075541.3013616, NULL, NULL, 1796075541.5911083, 0, 0, 1, 1796075541.3013616, 1796075541.3078113, 'Napper', 'napper', '01b26c02b837433693bf0b758b27b0c0', 'cancelled', 'good morning', 'good morning', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (20, 'naps', 'long-1', 'cancelled', 'nap', 4823114362664513021, 1796075541.3013616, NULL, NULL, 1796075541.5911083, 0, 0, 1, 1796075541.3013616, NULL, 'Napper', 'napper', '01b26c02b837433693bf0b758b27b0c0', 'cancelled', 'good morning', 'good morning', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (21, 'naps', 'long-2', 'cancelled', 'nap', 4823114362664513021, 1796075541.3013616, NULL, NULL, 1796075541.5911083, 0, 0, 2, 1796075541.5132766, 1796075541.5449028, 'Idler', 'idler', 'f7f527f4053b431995e06d23f1a66932', 'cancelled', 'good morning', 'good morning', NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (23, 'open-work', 'blocked', 'blocked', 'join', 4090894475575723889, 1796075541.8220205, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (29, 'open-work', 'later', 'ready', 'stumble', 7415886653609408824, 1796075541.8220205, NULL, 1796079141.8315496, NULL, 1, 0, 1, NULL, 1796075541.8278651, 'Junior', 'junior', '1d673de0a83f4b0f99dd2d044f20202b', NULL, 'attempt 1 failed with Junior', NULL, '{"type":"stumble","difficulty":1,"requires":[],"excluded":["junior"],"aged":false}', NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (28, 'open-work', 'refused', 'ready', 'paint', 5795067718523809398, 1796075541.8220205, NULL, NULL, NULL, 0, 0, 1, NULL, 1796075541.8303816, 'Novice', 'novice', '608bc26e52264936b581ed18cdd4a29f', NULL, 'no handler for the type ''paint''', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (30, 'open-work', 'harder', 'ready', 'stumble', 7824014027468360867, 1796075541.8220205, NULL, 1796079141.842812, NULL, 1, 0, 1, NULL, 1796075541.8278482, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', NULL, 'attempt 1 failed with Senior Engineer', NULL, '{"type":"stumble","difficulty":9,"requires":[],"excluded":[],"aged":false}', NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (22, 'open-work', 'running', 'running', 'nap', 355292991594642196, 1796075541.8220205, NULL, NULL, NULL, 0, 0, 1, 1796075541.8220205, 1796075541.827817, 'Senior Engineer', 'senior-engineer', '4ee0121d857f491dae8dc048a1fc8864', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (24, 'open-work', 'held', 'assigned', 'add', 3677641966881689488, 1796075541.8220205, NULL, NULL, NULL, 0, 0, 1, 1796075541.861842, NULL, 'Mute', 'mute', '74e59d9ca7ee4aa59bd767d1376a502f', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (25, 'open-work', 'survivor', 'ready', 'add', 3922573606387755534, 1796075541.8220205, NULL, NULL, NULL, 0, 1, 1, NULL, 1700000000.25, 'Casualty', 'casualty', 'e091087838f647ea8ca58b457e4879cc', NULL, 'worker Casualty: not heard of for 0.8 s', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (27, 'open-work', 'bounced', 'assigned', 'add', 2979604173678183071, 1796075541.8220205, NULL, NULL, NULL, 0, 1, 4, 1796075542.9196348, NULL, 'Bouncer', 'bouncer', 'c8ac6d0489534966af5051bcd90912bf', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (26, 'open-work', 'returned', 'ready', 'add', 4595793959938461570, 1796075541.8220205, NULL, NULL, NULL, 0, 0, 1, NULL, NULL, 'Leaver', 'leaver', '055e8627442c441b8d5f8b425e9ae200', NULL, 'worker Leaver: goes home', NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (33, 'backlog', '2', 'ready', 'add', 514752612955361995, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (36, 'backlog', '5', 'ready', 'add', 1622356001702425544, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.tasks VALUES (35, 'backlog', '4', 'ready', 'add', 5804281290582591117, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -2);
INSERT INTO public.tasks VALUES (31, 'backlog', '0', 'ready', 'add', 326340377398795059, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -1);
INSERT INTO public.tasks VALUES (34, 'backlog', '3', 'ready', 'add', 7811031549831430843, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -1);
INSERT INTO public.tasks VALUES (32, 'backlog', '1', 'ready', 'add', 495069509699588701, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -2);
INSERT INTO public.tasks VALUES (39, 'backlog', '8', 'ready', 'add', 8065539880615567401, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -3);
INSERT INTO public.tasks VALUES (42, 'backlog', '11', 'ready', 'add', 3323281249909947404, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -3);
INSERT INTO public.tasks VALUES (37, 'backlog', '6', 'ready', 'add', 6920304709651086814, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -1);
INSERT INTO public.tasks VALUES (38, 'backlog', '7', 'ready', 'add', 6709921404744693725, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -2);
INSERT INTO public.tasks VALUES (40, 'backlog', '9', 'ready', 'add', 469371116646824602, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -1);
INSERT INTO public.tasks VALUES (41, 'backlog', '10', 'ready', 'add', 787264070359793096, 1796075543.4308543, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 2163730681478769866, -2);
INSERT INTO public.workers VALUES ('junior', '{"name":"junior","title":"Junior","incarnation":"1d673de0a83f4b0f99dd2d044f20202b","skill":3,"specialties":[],"types":["add","join","stumble","nap"],"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":15.0,"dead_after":30.0}}', 'connected', '', 1796075539.553207);
INSERT INTO public.workers VALUES ('senior-engineer', '{"name":"senior-engineer","title":"Senior Engineer","incarnation":"4ee0121d857f491dae8dc048a1fc8864","skill":9,"specialties":["gpu","Überprüfung 2"],"types":["add","join","stumble","nap"],"slots":2,"reserve":2,"lease":{"heartbeat":0.5,"suspect_after":15.0,"dead_after":30.0}}', 'connected', '', 1796075539.6611376);
INSERT INTO public.workers VALUES ('napper', '{"name":"napper","title":"Napper","incarnation":"01b26c02b837433693bf0b758b27b0c0","skill":2,"specialties":["nap"],"types":["add","join","stumble","nap"],"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":15.0,"dead_after":30.0}}', 'disconnected', 'stopped', 1796075541.6100438);
INSERT INTO public.workers VALUES ('idler', '{"name":"idler","title":"Idler","incarnation":"f7f527f4053b431995e06d23f1a66932","skill":2,"specialties":["nap"],"types":["add","join","stumble","nap"],"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":15.0,"dead_after":30.0}}', 'disconnected', 'stopped', 1796075541.653268);
INSERT INTO public.workers VALUES ('mute', '{"name":"mute","title":"Mute","incarnation":"74e59d9ca7ee4aa59bd767d1376a502f","skill":1,"specialties":["mute"],"types":["add"],"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":0.4,"dead_after":3600.0}}', 'suspect', 'heartbeats are late', 1796075542.265465);
INSERT INTO public.workers VALUES ('casualty', '{"name":"casualty","title":"Casualty","incarnation":"e091087838f647ea8ca58b457e4879cc","skill":1,"specialties":["lost"],"types":null,"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":0.4,"dead_after":0.8}}', 'lost', 'not heard of for 0.8 s', 1796075542.721153);
INSERT INTO public.workers VALUES ('leaver', '{"name":"leaver","title":"Leaver","incarnation":"055e8627442c441b8d5f8b425e9ae200","skill":1,"specialties":["returned"],"types":null,"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":0.4,"dead_after":3600.0}}', 'disconnected', 'goes home', 1796075542.983451);
INSERT INTO public.workers VALUES ('novice', '{"name":"novice","title":"Novice","incarnation":"608bc26e52264936b581ed18cdd4a29f","skill":1,"specialties":["paint"],"types":null,"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":15.0,"dead_after":30.0}}', 'disconnected', 'stopped', 1796075543.0588567);
INSERT INTO public.workers VALUES ('bouncer', '{"name":"bouncer","title":"Bouncer","incarnation":"c8ac6d0489534966af5051bcd90912bf","skill":1,"specialties":["bounced"],"types":null,"slots":1,"reserve":0,"lease":{"heartbeat":0.2,"suspect_after":0.4,"dead_after":3600.0}}', 'suspect', 'heartbeats are late', 1796075543.3939104);
SELECT pg_catalog.setval('public.attempts_no_seq', 12, true);
ALTER TABLE ONLY public.attempts
    ADD CONSTRAINT attempts_pkey PRIMARY KEY (no);
ALTER TABLE ONLY public.definitions
    ADD CONSTRAINT definitions_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.kinds
    ADD CONSTRAINT kinds_pkey PRIMARY KEY (kind);
ALTER TABLE ONLY public.leader
    ADD CONSTRAINT leader_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.run_counts
    ADD CONSTRAINT run_counts_pkey PRIMARY KEY (run, status);
ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run);
ALTER TABLE ONLY public.skillq_version
    ADD CONSTRAINT skillq_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.tasks
    ADD CONSTRAINT tasks_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (name);
CREATE INDEX attempts_task ON public.attempts USING btree (seq);
CREATE INDEX tasks_ended_badly ON public.tasks USING btree (status, seq) WHERE ((finished_at IS NOT NULL) AND (status <> 'succeeded'::text));
CREATE INDEX tasks_held ON public.tasks USING btree (status, seq, run) WHERE (status = ANY (ARRAY['assigned'::text, 'running'::text]));
CREATE UNIQUE INDEX tasks_key ON public.tasks USING btree (run, id);
CREATE INDEX tasks_live ON public.tasks USING btree (seq, kind) WHERE (finished_at IS NULL);
CREATE INDEX tasks_run ON public.tasks USING btree (run, seq);
CREATE INDEX tasks_shelf ON public.tasks USING btree (kind, rank, seq) WHERE ((kind IS NOT NULL) AND (status = 'ready'::text));
CREATE INDEX tasks_worker ON public.tasks USING btree (worker, seq);
