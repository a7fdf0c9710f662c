-- Segments are counted when their imports end, by the member that each says. What the code before this makes says none:
-- all of that was counted by the same one.

ALTER TABLE segment_versions ADD COLUMN counted_by text NOT NULL DEFAULT 'ChannelType';
CREATE INDEX segment_versions_to_count ON segment_versions (import_id) WHERE members IS NULL;
